"""Finds how far a stopped run came."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.assembly.run_files import read_record
from lightning_rlhf.callbacks.run_record import write_json
from lightning_rlhf.checksums import check_checksums
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.saving import restore
from lightning_rlhf.strategies.pickle_checks import check_checkpoint

log = logging.getLogger(__name__)

# The newest one first; see `RunCheckpoint`.
_KEPT = ("last.ckpt", "previous.ckpt")


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


def find_resumed(resume: str | None, stages: list[str], *, here: bool = False) -> Resumed:
    """Looks for finished stages and for checkpoints.

    Args:
        resume: Run folder or checkpoint file of the earlier run, if any.
        stages: The stages of this run, in order.
        here: Whether this run writes to the same folder. It then starts at the beginning if nothing is found.

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
            raise UserError(
                f"resume={resume}: a checkpoint belongs to one stage, and this command runs {', '.join(stages)}; give "
                "the run folder, whose settings apply then, or the settings of that stage"
            )
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
    if not finished and not checkpoints and not here:
        whole = f"; it belongs to the run {path.parent}" if (path.parent / ".hydra").is_dir() else ""
        raise UserError(f"resume={resume}: has no finished stage and no checkpoint (checkpoints/last.ckpt){whole}")
    return Resumed(finished, checkpoints)


def finished_result(folder: Path) -> RunResult | None:
    """The result of a run that has come to its end by itself, with all of its stages; None for any other run.

    Args:
        folder: Folder of the run.
    """
    result = _read(folder / "result.json")
    stages = result.get("stages", {"": result})
    parts = [result, *(stages.values() if isinstance(stages, dict) else ())]
    done = all(part.get("status") == "finished" and "stopped_by" not in part for part in parts)
    return cast(RunResult, result) if done else None


def reopen(folder: Path) -> None:
    """Makes the record of a finished run that goes on say that it is running.

    Args:
        folder: Folder of the run.
    """
    file = folder / "result.json"
    if (result := _read(file)).get("status") == "finished":
        write_json(file, result | {"status": "running"})


def _check(checkpoint: Path) -> None:
    """Checks a checkpoint before any data are read. The strategy that reads a folder also looks for code in it."""
    if checkpoint.is_file():
        check_checkpoint(checkpoint)
    else:
        check_checksums(checkpoint, f"checkpoint={checkpoint}")


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
    """The newest whole checkpoint of a stage: its own, or the one that it resumed from if it stopped before its first.

    A damaged one is named in a warning, and the one before it is taken.
    """
    damaged = []
    for place in [*(folder / "checkpoints" / name for name in _KEPT), *_paths(result, "resumed_from")]:
        restore(place)
        if not place.exists():
            continue
        try:
            _check(place)
        except UserError as error:
            damaged.append(f"{error}")
            continue
        for problem in damaged:
            log.warning("%s; the checkpoint before it is taken: %s", problem, place)
        return place
    raise_problems(f"{problem}; to begin this stage anew, remove the checkpoint" for problem in damaged)
    return None


def _paths(result: dict[str, object], name: str) -> list[Path]:
    """The path that a record holds under a name, if it holds one."""
    return [Path(path)] if isinstance(path := result.get(name), str) else []
