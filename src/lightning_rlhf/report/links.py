"""Links to the files of a run, which work as long as the page lies in its folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.saving import read_json
from lightning_rlhf.stages import STAGES

_FILES = (
    ("report.html", "run card"),
    ("model", "model"),
    ("model_best", "best model"),
    ("model_ema", "averaged model"),
    ("adapter", "adapter"),
    ("adapter_best", "best adapter"),
    ("adapter_ema", "averaged adapter"),
    ("metrics.csv", "metrics.csv"),
    ("samples.jsonl", "samples.jsonl"),
    ("result.json", "result.json"),
    ("config.yaml", "config.yaml"),
    ("train.log", "train.log"),
    ("checkpoints", "checkpoints"),
    (".hydra", "Hydra’s files"),
)


_TEXTS = ("report.html", "metrics.csv", "samples.jsonl", "result.json", "config.yaml", "train.log")


@dataclass(frozen=True)
class Link:
    """A link to a section of the page, or to a file."""

    href: str
    text: str


def files(run: Run) -> list[tuple[str, list[Link]]]:
    """The files of the run, and of each stage of a pipeline, under a title. Files that do not exist are left out."""
    folders: list[tuple[str, Path, Stage | None]] = [(stage.record.title, stage.folder, stage) for stage in run.stages]
    if len(run.stages) != 1 or run.stages[0].folder != run.folder:
        folders.insert(0, ("Whole run", run.folder, None))
    rows = [(title, _files_of(run.folder, folder, stage)) for title, folder, stage in folders]
    return [(title, links) for title, links in rows if links]


def _files_of(run_dir: Path, folder: Path, stage: Stage | None) -> list[Link]:
    places = {text: folder / name for name, text in _FILES if folder / name != run_dir / "report.html"}
    if stage is not None and stage.result.model_dir and not places["model"].exists():
        # The folder of a run may have been moved, and a stage that was not run again has left its model elsewhere.
        places["model"] = Path(stage.result.model_dir)
    return [Link(address(run_dir, place), text) for text, place in places.items() if place.exists()]


def part_of(run_dir: Path) -> Link | None:
    """The card of the pipeline whose stage this run is, or the folder of its sweep, if there is one."""
    above = run_dir.resolve().parent
    if (above / "report.html").is_file() and stage_of(above / "result.json") == "pipeline":
        return Link("../report.html", "a pipeline")
    # Hydra writes this file into the folder of a sweep.
    return Link("../", "a sweep") if (above / "multirun.yaml").is_file() else None


def stage_of(record: Path) -> object:
    """The stage that a `result.json` names; None if it names none or cannot be read."""
    return read_json(record).get("stage")


def address(run_dir: Path, place: Path) -> str:
    """A relative address, which begins with a dot: whatever a path is called, it is no address of another kind."""
    path = Path(os.path.relpath(place.resolve(), run_dir.resolve())).as_posix()
    return f"./{quote(path)}" + ("/" if place.is_dir() else "")


def readable(runs: Sequence[Path], page: Path) -> dict[str, Path]:
    """The files that a browser may read from runs that are followed, by their path from the folder of the page.

    They are the texts that a run writes, and no weights.

    Args:
        runs: The folders of the runs, in the folder of the page or below it.
        page: The folder of the page.
    """
    folders = [folder for run in runs for folder in (run, *(run / stage for stage in STAGES))]
    files = [folder / name for folder in folders for name in _TEXTS]
    return {os.path.relpath(file.resolve(), page.resolve()): file for file in files if file.is_file()}
