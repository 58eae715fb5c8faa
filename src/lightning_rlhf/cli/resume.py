"""Finds where a stopped run was."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.folders import restore


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
        UserError: If there is nothing to go on from.
    """
    if resume is None:
        return Resumed()
    path = Path(resume).expanduser()
    if path.suffix == ".ckpt":
        restore(path)
    if path.suffix == ".ckpt" and path.exists():
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
        result = _read(folder / "result.json") or elsewhere.get(stage, {})
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


def _read(record: Path) -> dict[str, Any]:
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}


def _exported(result: dict[str, Any], folder: Path) -> Path | None:
    """The model of a stage that is finished; a run folder may have been moved."""
    if result.get("status") != "finished":
        return None
    places = [folder / "model", Path(result["model_dir"])]
    return next((place for place in places if place.is_dir()), None)


def _checkpoint(folder: Path, result: dict[str, Any]) -> Path | None:
    """The newest checkpoint of a stage: its own, or the one that it went on from if it was stopped before that."""
    for place in [folder / "checkpoints" / "last.ckpt", *map(Path, filter(None, [result.get("resumed_from")]))]:
        restore(place)
        if place.exists():
            return place
    return None
