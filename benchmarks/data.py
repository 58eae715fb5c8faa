"""Time and memory of preparing preference pairs and of reading them: the table of docs/data.md.

    python benchmarks/data.py PAIRS [count]

PAIRS is a file of preference pairs, which are repeated until there are `count` of them (54,000). Each measurement is
made in a process of its own, with the demo's tokenizer and the template `plain`. The memory is the growth of what the
process holds, including the pages of the mapped file that it has read: after an epoch, all of them.
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
"""The number of pairs, and how many of them are converted to lists one by one."""


def resident() -> int:
    """Returns the resident bytes of this process, including the files that it maps (proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def measured(work: Callable[[], Any], count: int) -> dict[str, float]:
    """Returns pairs per second of wall-clock time and of processor time, and bytes per pair."""
    memory, start, busy = resident(), time.perf_counter(), sum(os.times()[:4])
    result = work()
    # The time of child processes counts too.
    seconds, busy_seconds = time.perf_counter() - start, sum(os.times()[:4]) - busy
    found = {"pairs/s": count / seconds, "pairs/s of CPU": count / busy_seconds, "bytes": (resident() - memory) / count}
    del result
    return found


def measure(what: str, path: str, count: int) -> dict[str, float]:
    """Makes one measurement, in this process.

    Args:
        what: `lists` renders one conversation after the other, as lists; `prepare` starts from texts; `open` reads the
            cache; `epoch` does the same and reads all batches.
        path: The file of pairs.
        count: The number of pairs.
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

    # Late imports, and what a tokenizer builds at its first use, must not be measured.
    import datasets  # noqa: F401

    renderer.conversation([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    works: dict[str, Callable[[], Any]] = {"lists": lists, "prepare": data, "open": data, "epoch": epoch}
    return measured(works[what], SAMPLE if what == "lists" else count)


def repeated(source: Path, target: Path, count: int) -> None:
    """Repeats the lines of a file."""
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
