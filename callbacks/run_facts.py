"""What the run card says about a stage beside its numbers: data, models, hardware and source code."""

import platform
import subprocess
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.callbacks.model_table import models_by_role
from lightning_rlhf.distributed.phases import num_parameters

_ROWS = {
    "train": ("train_rows", "train_prompts"),
    "held out": ("val_rows", "val_prompts"),
    "answered": ("prompts", "val_prompts"),
}
"""The attributes of our data modules that hold the rows to train on, the held-out rows, and the prompts to answer."""


def run_facts(trainer: Trainer, module: LightningModule) -> dict[str, object]:
    """Returns entries of `result.json`; they are known as soon as the models and the data exist.

    - `rows`: numbers of rows, see `_ROWS`; without those that the data module does not have.
    - `minibatch_size`: that of the optimizer steps, see `used_minibatch_size`.
    - `accumulate_grad_batches`: into how many parts a process divides its share of a minibatch.
    - `parameters`: for each model, by role, the number of its weights and of those that are trained.
    - `hardware`: the device of the first process, and the numbers of processes and of machines.
    - `git`: the commit of the current folder and of this package, by the name of the repository.
    """
    return {
        "rows": row_counts(trainer),
        "minibatch_size": used_minibatch_size(module, getattr(trainer, "datamodule", None)),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "parameters": {
            name: {"total": num_parameters(trainer, net), "trained": num_parameters(trainer, net, trained=True)}
            for name, net in models_by_role(module).items()
        },
        "hardware": {
            "device": _device(module.device),
            "processes": trainer.world_size,
            "machines": trainer.num_nodes,
        },
        "git": dict(filter(None, (commit_of(folder) for folder in (Path.cwd(), Path(__file__).parent)))),
    }


def row_counts(trainer: Trainer) -> dict[str, int]:
    """Returns the numbers of rows of a stage, see `_ROWS`, if its data module is one of this package."""
    counts = {name: _length(trainer, names) for name, names in _ROWS.items()}
    return {name: count for name, count in counts.items() if count is not None}


def used_minibatch_size(module: LightningModule, data: object) -> int | None:
    """Returns the minibatch size of a stage, which is smaller than the setting if there are too few rows for it.

    Args:
        module: The module, which has the size if it makes its own minibatches.
        data: The data module, which has it otherwise; its data have been read.
    """
    return getattr(module, "minibatch_size", getattr(data, "minibatch_size", None))


def _length(trainer: Trainer, names: tuple[str, ...]) -> int | None:
    data = getattr(trainer, "datamodule", None)
    rows = next((rows for name in names if (rows := getattr(data, name, None)) is not None), None)
    return None if rows is None else len(rows)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def commit_of(folder: Path) -> tuple[str, str] | None:
    """Returns the name of the repository that a folder belongs to, and its commit; None if git does not know them."""
    top, commit = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "rev-parse", "HEAD")
    # The package may be installed below a folder that is a repository of something else.
    if not top or not commit or _git(folder, "ls-files", ".") == "":
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Path(top).name, commit + (" with uncommitted changes" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
