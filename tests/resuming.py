"""Kills a run between two optimizer steps, goes on with it, and compares all that it leaves with a whole run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger
from support import Recorder, trainer

from lightning_rlhf.callbacks.history import History


class Killed(Exception):
    """Stands for the end of a process."""


class Kill(Checkpoint):
    """Saves after an optimizer step, and ends the run one step later, so that a step is lost.

    Lightning calls checkpoints after all other callbacks, as it does `RunCheckpoint`.
    """

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step > self.step:
            raise Killed
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def run(
    build: Callable[[], tuple[Any, Any]],
    folder: Path,
    *callbacks: Callback,
    resume: Path | None = None,
    **settings: Any,
) -> list[float]:
    """Trains, leaves `end.ckpt` and `metrics.csv` in the folder, and returns the loss of each step."""
    recorder = Recorder()
    logger = CSVLogger(str(folder), name="", version="")
    options = {"max_epochs": 3, "enable_checkpointing": True, "log_every_n_steps": 1, "logger": logger} | settings
    made = trainer(folder, recorder, History(), *callbacks, **options)
    module, data = build()
    made.fit(module, data, ckpt_path=resume)
    made.save_checkpoint(folder / "end.ckpt")
    return recorder.losses


def killed_and_resumed(
    build: Callable[[], tuple[Any, Any]], folder: Path, step: int, extra: Callable[[], list[Callback]], **settings: Any
) -> list[float]:
    """Runs to the checkpoint after a step and one step beyond it, then resumes; returns the losses after the step."""

    checkpoint = folder / "killed.ckpt"
    try:
        run(build, folder, *extra(), Kill(step, checkpoint), **settings)
    except Killed:
        return run(build, folder, *extra(), resume=checkpoint, **settings)
    raise AssertionError(f"the run ended before step {step + 1}")


def differences(whole: object, resumed: object, name: str = "") -> list[str]:
    """The names of all values that differ in any bit."""
    if isinstance(whole, torch.Tensor) and isinstance(resumed, torch.Tensor):
        same = whole.dtype == resumed.dtype and torch.equal(whole, resumed)
        return [] if same else [name]
    if isinstance(whole, Mapping) and isinstance(resumed, Mapping):
        keys = sorted(whole.keys() | resumed.keys(), key=str)
        missing = [f"{name}/{key}" for key in keys if (key in whole) != (key in resumed)]
        both = [key for key in keys if key in whole and key in resumed]
        return missing + [part for key in both for part in differences(whole[key], resumed[key], f"{name}/{key}")]
    if isinstance(whole, Sequence) and isinstance(resumed, Sequence) and not isinstance(whole, str):
        if len(whole) != len(resumed):
            return [name]
        pairs = enumerate(zip(whole, resumed, strict=True))
        return [part for i, (a, b) in pairs for part in differences(a, b, f"{name}/{i}")]
    return [] if type(whole) is type(resumed) and whole == resumed else [f"{name}: {whole!r:.80} {resumed!r:.80}"]


def left_by(folder: Path) -> dict[str, Any]:
    """The state at the end of a run, and the rows that it has logged; without what belongs to the writing of files."""
    state = torch.load(folder / "end.ckpt", weights_only=True)
    callbacks = {key: value for key, value in state["callbacks"].items() if "Checkpoint" not in key}
    return state | {"callbacks": callbacks, "metrics.csv": (folder / "metrics.csv").read_text(encoding="utf-8")}
