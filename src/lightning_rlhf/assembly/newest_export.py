"""Finds the newest model that a run has left, while the run goes on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lightning_rlhf.assembly.export import export
from lightning_rlhf.assembly.run_files import read_record
from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES

_EXPORTS = ("model", "model_best", "model_ema")
_CHECKPOINT = Path("checkpoints") / "last.ckpt"


class Found(NamedTuple):
    """Something that holds the weights of a run."""

    path: Path
    changed: float
    """When it was written; a path with other weights has another time."""


def check_run(run: str) -> Path:
    """Checks that a folder is that of a stage which trains a language model.

    Args:
        run: The folder.

    Raises:
        UserError: If it is not.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise UserError(f"run={run}: no such folder ({folder.absolute()})")
    stages = [name for name in STAGES if (folder / name / "config.yaml").is_file()]
    if stages:
        raise UserError(f"run={run}: this is the folder of several stages: name one, such as run={folder / stages[-1]}")
    result = folder / "result.json"
    stage = read_record(result).get("stage") if result.is_file() else None
    if isinstance(stage, str) and stage in STAGES and STAGES[stage].trains_reward_model:
        raise UserError(f"run={run}: stage={stage} trains a reward model, which answers no prompts")
    return folder


def newest(folder: Path) -> Found:
    """Finds what a run has written last: an export, or the last checkpoint.

    Args:
        folder: The folder of the run.

    Raises:
        UserError: If there is neither.
    """
    files = [folder / name / "config.json" for name in _EXPORTS] + [folder / _CHECKPOINT]
    found = []
    for file in files:
        if file.exists():
            # A sharded checkpoint is a folder, whose own time need not change with its files.
            inside = [file, *(file.rglob("*") if file.is_dir() else ())]
            path = file.parent if file.name == "config.json" else file
            found.append(Found(path, max(one.stat().st_mtime for one in inside)))
    if not found:
        raise UserError(
            f"run={folder}: the run has left no model and no checkpoint yet: wait for the end of its first epoch, or "
            "set checkpoint.every_minutes"
        )
    return max(found, key=lambda one: one.changed)


def as_model(found: Found, folder: Path, trust_remote_code: bool = False) -> Path:
    """Returns the folder of a model with the weights that were found, exporting them if they are a checkpoint.

    Args:
        found: The weights.
        folder: Where an export is written.
        trust_remote_code: Whether to run Python code that comes with the model.
    """
    if found.path.name != _CHECKPOINT.name:
        return found.path
    return export(str(found.path), str(folder), None, trust_remote_code)


def name_of(found: Found) -> str:
    """Names the weights for the file of labels: where they are, and when they were written, in UTC."""
    return f"{found.path} of {datetime.fromtimestamp(found.changed, UTC).isoformat(timespec='seconds')}"
