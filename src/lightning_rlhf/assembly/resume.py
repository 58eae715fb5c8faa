"""Finds how far a stopped run came."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lightning_rlhf.assembly.quoting import override
from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.assembly.run_files import read_record
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import restore
from lightning_rlhf.strategies.pickle_checks import check_file


@dataclass(frozen=True)
class Resumed:
    """What an earlier run has left."""

    finished: dict[str, RunResult] = field(default_factory=dict)
    """Results of stages that need not run again."""
    checkpoints: dict[str, Path] = field(default_factory=dict)
    """Checkpoints of stages that were stopped."""

    def folder_of(self, stage: str) -> Path | None:
        """The folder of a stage in the earlier run, whose settings the stage keeps."""
        if (model := self.model_of(stage)) is not None:
            return model.parent
        return self.checkpoints[stage].absolute().parents[1] if stage in self.checkpoints else None

    def model_of(self, stage: str) -> Path | None:
        """The folder of the model of a finished stage; None if the stage has not finished."""
        return Path(str(self.finished[stage]["model_dir"])) if stage in self.finished else None


def find_resumed(resume: str | None, stages: list[str]) -> Resumed:
    """Looks for finished stages and for checkpoints.

    Args:
        resume: Run folder or checkpoint file of the earlier run, if any.
        stages: The stages of this run, in order.

    Raises:
        UserError: If there is nothing to resume from, or the files are damaged or could run code.
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
    # If a pipeline was resumed into another folder, its finished stages stay in the first folder.
    elsewhere = _read(path / "result.json").get("stages", {})
    for stage in stages:
        folder = path if len(stages) == 1 else path / stage
        result = _read(folder / "result.json") or _record(elsewhere, stage)
        if len(stages) > 1 and (model := _exported(result, folder)) is not None:
            finished[stage] = cast(RunResult, result | {"model_dir": str(model)})
            continue
        checkpoint = _checkpoint(folder, result)
        if checkpoint is not None:
            checkpoints[stage] = checkpoint
        # Each stage starts from the export of the stage before it, so the stages after this one start again.
        break
    if not finished and not checkpoints:
        raise UserError(f"resume={resume}: has no finished stage and no checkpoint (checkpoints/last.ckpt)")
    return Resumed(finished, checkpoints)


def how_to_go_on(folder: Path, stages: list[str], command: Sequence[str]) -> str:
    """The message for a user who has stopped a run.

    Args:
        folder: Folder of the run.
        stages: Stages of the run, in order.
        command: The words of the command line: the program and the overrides.
    """
    try:
        find_resumed(str(folder), stages)
    except UserError:
        return "interrupted before the first checkpoint, so the run cannot be resumed"
    words = [word for word in command if not word.startswith("resume=")]
    return f"interrupted; resume with: {shlex.join([*words, override('resume', str(folder))])}"


def _check(checkpoint: Path) -> None:
    """Checks a file before any data are read. A folder is checked by the strategy that reads it."""
    if checkpoint.is_file():
        check_file(checkpoint)


def _read(record: Path) -> dict[str, object]:
    return read_record(record) if record.is_file() else {}


def _record(records: object, stage: str) -> dict[str, object]:
    """The record of a stage within that of a pipeline, which need not be trusted."""
    record = records.get(stage) if isinstance(records, dict) else None
    return record if isinstance(record, dict) else {}


def _exported(result: dict[str, object], folder: Path) -> Path | None:
    """The model of a stage, if the stage has finished. The run folder may have been moved since."""
    if result.get("status") != "finished":
        return None
    return next((place for place in [folder / "model", *_paths(result, "model_dir")] if place.is_dir()), None)


def _checkpoint(folder: Path, result: dict[str, object]) -> Path | None:
    """The newest checkpoint of a stage: its own, or the one that it resumed from if it stopped before its first."""
    for place in [folder / "checkpoints" / "last.ckpt", *_paths(result, "resumed_from")]:
        restore(place)
        if place.exists():
            _check(place)
            return place
    return None


def _paths(result: dict[str, object], name: str) -> list[Path]:
    """The path that a record holds under a name, if it holds one."""
    return [Path(path)] if isinstance(path := result.get(name), str) else []
