"""Finds the folders of runs below other folders, such as that of a sweep."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.saving import read_json
from lightning_rlhf.stages import STAGES

_SIGNS = ("result.json", "metrics.csv")


def find_runs(places: Sequence[str]) -> list[Path]:
    """The folders of runs at some places, in the order of the places and then of their names.

    The stages of a pipeline belong to its run, and are no runs of their own.

    Args:
        places: Folders of runs, folders that contain such folders at any depth, or patterns such as `outputs/ppo/*`.

    Raises:
        UserError: If a place does not exist, or no place has a run.
    """
    matches = {place: sorted(glob.glob(os.path.expanduser(place)), key=_in_order) for place in places}
    raise_problems(f"runs={place}: there is no such folder" for place, found in matches.items() if not found)
    folders = [Path(path) for found in matches.values() for path in found if Path(path).is_dir()]
    runs = list(dict.fromkeys(run for folder in folders for run in _below(folder)))
    if not runs:
        raise UserError(f"runs={','.join(places)}: no folder of a run, which holds {' or '.join(_SIGNS)}, is there")
    return runs


def _below(folder: Path) -> list[Path]:
    if any((folder / sign).is_file() for sign in _SIGNS):
        return [folder] if _is_run(folder) else []
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=_in_order)
    return [run for path in inside if path.name[0] != "." and not path.is_symlink() for run in _below(path)]


def _is_run(folder: Path) -> bool:
    """Whether a result is that of training; benchmarks, examinations and exports have results too."""
    return read_json(folder / "result.json").get("stage") in (None, "pipeline", *STAGES)


def _in_order(path: str | Path) -> list[tuple[int, str]]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]
