"""Time and memory of preparing preference pairs and of reading them: the table of docs/data.md.

    python benchmarks/data.py PAIRS [count]

PAIRS is a file of preference pairs, which is repeated until there are `count` of them (54,000). Each measurement is
made in a process of its own, with the demo's tokenizer and the template `plain`. Memory is what lies in it more than
before, with the pages of the file that it has touched: after an epoch, all of them.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COUNT, SAMPLE = 54_000, 3_600
"""Pairs, and how many of them are made to lists one by one."""


def resident() -> int:
    """Bytes of this process that lie in memory, files that it maps included (proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def measured(work: Callable[[], Any], count: int) -> dict[str, float]:
    """Pairs a second, by the clock and by the processor, and bytes a pair."""
    memory, start, busy = resident(), time.perf_counter(), sum(os.times()[:4])
    result = work()
    # Of the processes that it started, too.
    seconds, busy_seconds = time.perf_counter() - start, sum(os.times()[:4]) - busy
    found = {"pairs/s": count / seconds, "pairs/s of CPU": count / busy_seconds, "bytes": (resident() - memory) / count}
    del result
    return found


def measure(what: str, path: str, count: int) -> dict[str, float]:
    """Makes one measurement, in this process.

    Args:
        what: lists: one conversation after the other, as lists; prepare: from texts; open: from the cache; epoch: the
            same, and all its batches are read.
        path: The pairs.
        count: How many there are.
    """
    import lightning.pytorch as pl

    from lightning_rlhf import ModelSource, PreferenceDataModule, Renderer
    from lightning_rlhf.data.formats import read_records

    source = ModelSource(config={"model_type": "llama"}, tokenizer="pkg://lightning_rlhf.demo/tokenizer")
    renderer = Renderer(source.load_tokenizer(), "plain")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)

    def lists() -> list[Any]:
        records = islice(read_records(path, "pair", on_error="skip").rows, SAMPLE)
        return [
            (renderer.conversation(record.messages, "last"), renderer.conversation(record.rejected or [], "last"))
            for record in records
        ]

    def data() -> PreferenceDataModule:
        module = PreferenceDataModule(path, renderer, on_error="skip", val_fraction=0.01)
        module.trainer = trainer
        module.setup("fit")
        return module

    def epoch() -> PreferenceDataModule:
        module = data()
        for _ in module.train_dataloader():  # type: ignore[attr-defined]
            pass
        return module

    # What is imported late, and what a tokenizer makes at its first use, belongs to neither.
    import datasets  # noqa: F401

    renderer.conversation([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    works: dict[str, Callable[[], Any]] = {"lists": lists, "prepare": data, "open": data, "epoch": epoch}
    return measured(works[what], SAMPLE if what == "lists" else count)


def repeated(source: Path, target: Path, count: int) -> None:
    """Writes the lines of a file again and again."""
    with gzip.open(source, "rt") if source.suffix == ".gz" else source.open() as stream:
        lines = [line for line in stream if line.strip()]
    with target.open("w", encoding="utf-8") as file:
        file.writelines(islice(cycle(lines), count))


def main() -> None:
    """Makes all measurements and prints their table."""
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
        return
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        repeated(Path(sys.argv[1]), path, count)
        environment = {**os.environ, "HF_DATASETS_CACHE": f"{folder}/cache"}
        rows = {}
        for what in ("lists", "prepare", "open", "epoch"):
            command = [sys.executable, __file__, what, str(path), str(count)]
            said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows[what] = json.loads(said.splitlines()[-1])
    print(f"| {count} pairs | " + " | ".join(rows["lists"]) + " |")
    for what, row in rows.items():
        print(f"| {what} | " + " | ".join(f"{value:,.0f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
