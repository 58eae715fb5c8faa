"""Finds where a stopped run was."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_rlhf.assembly.run_files import read_record
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import restore
from lightning_rlhf.strategies.pickle_checks import check_file


@dataclass(frozen=True)
class Resumed:
    """What is there of an earlier run."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of stages that need not run again."""
    checkpoints: dict[str, Path] = field(default_factory=dict)
    """Checkpoints of stages that were stopped."""

    def folder_of(self, stage: str) -> Path | None:
        """The folder of a stage in the earlier run, whose settings it goes on with."""
        if stage in self.finished:
            return Path(self.finished[stage]["model_dir"]).parent
        return self.checkpoints[stage].absolute().parents[1] if stage in self.checkpoints else None


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
    # Of a pipeline that was resumed into another folder, finished stages stay in the first one.
    elsewhere = _read(path / "result.json").get("stages", {})
    for stage in stages:
        folder = path if len(stages) == 1 else path / stage
        result = _read(folder / "result.json") or _record(elsewhere, stage)
        if len(stages) > 1 and (model := _exported(result, folder)) is not None:
            finished[stage] = result | {"model_dir": str(model)}
            continue
        checkpoint = _checkpoint(folder, result)
        if checkpoint is not None:
            checkpoints[stage] = checkpoint
        # Each stage starts from what the one before it has exported, so those after it begin anew.
        break
    if not finished and not checkpoints:
        raise UserError(f"resume={resume}: has no finished stage and no checkpoint (checkpoints/last.ckpt)")
    return Resumed(finished, checkpoints)


def how_to_go_on(folder: Path, stages: list[str], command: Sequence[str]) -> str:
    """What to tell a user who has stopped a run.

    Args:
        folder: Of the run.
        stages: Its stages, in order.
        command: The words that started it: the program, and what was set.
    """
    try:
        find_resumed(str(folder), stages)
    except UserError:
        return "interrupted before the first checkpoint; nothing is left to go on from"
    words = [word for word in command if not word.startswith("resume=")]
    return f"interrupted; go on with: {shlex.join([*words, f'resume={folder}'])}"


def _check(checkpoint: Path) -> None:
    """Checks a file before any data are read; a folder is checked by the strategy that reads it."""
    if checkpoint.is_file():
        check_file(checkpoint)


def _read(record: Path) -> dict[str, Any]:
    return read_record(record) if record.is_file() else {}


def _record(records: Any, stage: str) -> dict[str, Any]:
    """The record of a stage inside that of a pipeline, which may have been written by anybody."""
    record = records.get(stage) if isinstance(records, dict) else None
    return record if isinstance(record, dict) else {}


def _exported(result: dict[str, Any], folder: Path) -> Path | None:
    """The model of a stage that is finished; a run folder may have been moved."""
    if result.get("status") != "finished":
        return None
    return next((place for place in [folder / "model", *_paths(result, "model_dir")] if place.is_dir()), None)


def _checkpoint(folder: Path, result: dict[str, Any]) -> Path | None:
    """The newest checkpoint of a stage: its own, or the one that it went on from if it was stopped before that."""
    for place in [folder / "checkpoints" / "last.ckpt", *_paths(result, "resumed_from")]:
        restore(place)
        if place.exists():
            _check(place)
            return place
    return None


def _paths(result: dict[str, Any], name: str) -> list[Path]:
    """The path that a record holds under a name, if it holds one."""
    return [Path(result[name])] if isinstance(result.get(name), str) else []
