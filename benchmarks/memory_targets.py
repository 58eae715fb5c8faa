"""Measures the memory of a PPO iteration on a CPU, by hand and by this framework: the first table of docs/memory.md.

    python benchmarks/memory_targets.py FOLDER [word …]

The script writes models with random weights into FOLDER, runs each row in a process of its own, and prints the table.
Rows that are in FOLDER already are not run again, so a run that was stopped continues. With words, such as `peak` or
`8gb plain`, it runs only the rows that have all of them in their name. All rows together need 5 GB of disk and half an
hour on two cores.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memory_nets import write
from omegaconf import OmegaConf

from lightning_rlhf.models.rebuilding import empty_net
from lightning_rlhf.models.source import ModelSource

PROMPT, RESPONSE = 400, 112
LIMIT = 8 * 10**9
_SHARED = ["adapter=lora", "roles=shared", "model.gradient_checkpointing=true"]
_NF4 = [*_SHARED, "model.quantization=nf4"]
_ENVIRON = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""The C library gives back at once what is larger than this. By default it keeps holes between tensors that stay. They
are never used again, but count as address space: GBs for a large model."""
_CONFIGS = Path(__file__).parents[1] / "conf" / "model" / "gpt2"


@dataclass(frozen=True)
class Row:
    """A run that is measured."""

    name: str
    size: str
    """The name of a size in `conf/model/gpt2`."""
    kind: str
    """Either plain or ours."""
    overrides: tuple[str, ...] = ()
    limit: int = 0
    """The limit of the address space in bytes; 0 sets no limit."""

    @property
    def iterations(self) -> int:
        """The number of iterations; in the second one, the optimizer's state exists from the start."""
        return 1 if self.limit else 2


ROWS = [
    Row("peak plain", "small", "plain"),
    Row("peak full", "small", "ours", ("model.gradient_checkpointing=true",)),
    Row("peak separate", "small", "ours", ("adapter=lora", "model.gradient_checkpointing=true")),
    Row("peak shared", "small", "ours", (*_SHARED, "optim=adamw_8bit")),
    Row("peak nf4", "small", "ours", tuple(_NF4)),
    *(Row(f"8gb plain {size}", size, "plain", limit=LIMIT) for size in ("small", "medium")),
    *(Row(f"8gb ours {size}", size, "ours", tuple(_NF4), LIMIT) for size in ("xl",)),
]


def architecture(size: str) -> dict[str, Any]:
    """The Hugging Face configuration of a size."""
    base, own = (OmegaConf.load(_CONFIGS / f"{name}.yaml") for name in ("base", size))
    plain: Any = OmegaConf.to_container(OmegaConf.merge(base.config, own.config))
    return plain


def num_parameters(size: str) -> int:
    """The number of parameters of the language model."""
    net = empty_net(ModelSource(config=architecture(size), tokenizer="none"), scalar=False)
    return sum(weight.numel() for weight in net.parameters())


def measured(row: Row, folder: Path) -> dict[str, Any]:
    """What a row took; it is run unless its record exists. `failed` says why a row could not be run."""
    place = folder / "rows" / row.name.replace(" ", "_")
    record = place / "row.json"
    if record.exists():
        return json.loads(record.read_text())
    nets = folder / row.size
    write(architecture(row.size), nets, prompt_length=PROMPT, reward_net=row.size == "small")
    script = Path(__file__).with_name("memory_row.py")
    numbers = map(str, (row.limit, row.iterations, RESPONSE))
    command = [sys.executable, str(script), str(place), str(nets), row.kind, *numbers, *row.overrides]
    done = subprocess.run(command, env=_ENVIRON, capture_output=True, text=True)
    if done.returncode:
        if not any(sign in done.stderr for sign in ("can't allocate memory", "MemoryError", "bad_alloc")):
            raise SystemExit(f"{row.name} failed:\n{done.stderr[-3000:]}")
        place.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"failed": "out of memory"}))
    return json.loads(record.read_text())


def cells(row: Row, found: dict[str, Any], plain: dict[str, Any] | None) -> list[str]:
    """The cells of a row of the table."""
    settings = " ".join(f"`{override}`" for override in row.overrides) or "–"
    start = [row.kind, f"`gpt2/{row.size}`, {num_parameters(row.size) / 1e6:,.0f}M", settings]
    if "failed" in found:
        return [*start, *["–"] * 3, found["failed"]]
    most = max(found["rollout"], found["update"])
    share = f"1/{max(plain['rollout'], plain['update']) / most:.2f}" if plain else "–"
    sizes = [f"{found[name] / 1e6:,.0f}" for name in ("rollout", "update")]
    return [*start, *sizes, share, f"{found['VmPeak'] / 1e6:,.0f}"]


def main() -> None:
    """Runs the rows that are missing, and prints the table."""
    folder, words = Path(sys.argv[1]).absolute(), sys.argv[2:]
    rows = [row for row in ROWS if all(word in row.name.split() for word in words)]
    print("| PPO | model | settings | rollout, MB | update, MB | of plain | address space, MB |")
    print("| --- " * 7 + "|")
    plain = None
    for row in rows:
        found = measured(row, folder)
        plain = found if row.name == "peak plain" else None if row.limit else plain
        print("|", " | ".join(cells(row, found, plain)), "|", flush=True)


if __name__ == "__main__":
    main()
