"""Finds where a stopped run was."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_rlhf.cli.found import read_record
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import restore
from lightning_rlhf.strategies.pickles import check_file


@dataclass(frozen=True)
class Resumed:
    """What is there of an earlier run."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of stages that need not run again."""
    checkpoints: dict[str, Path] = field(default_factory=dict)
    """Checkpoints of stages that were stopped."""


def find_resumed(resume: str | None, stages: list[str]) -> Resumed:
    """Looks for finished stages and for checkpoints.

    Args:
        resume: Run folder or checkpoint file of the earlier run, if any.
        stages: The stages of this run, in order.

    Raises:
        UserError: If there is nothing to go on from, or what is there is damaged or could run code.
    """
    if resume is None:
        return Resumed()
    path = Path(resume).expanduser()
    if path.suffix == ".ckpt":
        restore(path)
    if path.suffix == ".ckpt" and path.exists():
        _check(path)
        if len(stages) > 1:
            raise UserError(f"resume={resume}: a checkpoint belongs to one stage; give the run folder of the pipeline")
        return Resumed(checkpoints={stages[0]: path})
    if not path.is_dir():
        raise UserError(f"resume={resume}: no such run folder or checkpoint file ({path.absolute()})")
    finished, checkpoints = {}, {}
    for stage in stages:
        folder = path if len(stages) == 1 else path / stage
        record, checkpoint = folder / "result.json", folder / "checkpoints" / "last.ckpt"
        restore(checkpoint)
        result = read_record(record) if record.is_file() else {}
        if len(stages) > 1 and result.get("status") == "finished":
            finished[stage] = result
        elif checkpoint.exists():
            _check(checkpoint)
            checkpoints[stage] = checkpoint
    if not finished and not checkpoints:
        raise UserError(f"resume={resume}: has no finished stage and no checkpoint (checkpoints/last.ckpt)")
    return Resumed(finished, checkpoints)


def _check(checkpoint: Path) -> None:
    """Checks a file before any data are read; a folder is checked by the strategy that reads it."""
    if checkpoint.is_file():
        check_file(checkpoint)
