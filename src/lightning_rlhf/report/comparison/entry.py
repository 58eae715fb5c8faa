"""What the comparison knows about each of its runs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_rlhf.report.comparison.differences import settings_of
from lightning_rlhf.report.formatting import Show
from lightning_rlhf.report.links import address
from lightning_rlhf.report.measures import gold_names
from lightning_rlhf.report.numbers import METRICS, described, final
from lightning_rlhf.report.run import Run, Stage


@dataclass(frozen=True)
class Metric:
    """A held-out metric of a run, and how it is written."""

    label: str
    value: float
    show: Show

    @property
    def shown(self) -> str:
        """The value as text."""
        return self.show(self.value)


@dataclass(frozen=True)
class Entry:
    """One run. `metrics` are its last held-out metrics, by a name that has the stage in it if runs have several."""

    run: Run
    name: str
    href: str | None
    """The address of its card from the page, if it has one."""
    settings: Mapping[str, str]
    metrics: Mapping[str, Metric]


def entries(runs: Sequence[Run], page: Path) -> list[Entry]:
    """The entries of runs.

    Args:
        runs: At least one run.
        page: The file to which the comparison is written.
    """
    several = len({stage.name for run in runs for stage in run.stages}) > 1
    names = short_names([run.folder for run in runs])
    return [
        Entry(
            run=run,
            name=name,
            href=address(page.parent, run.folder / "report.html") if (run.folder / "report.html").is_file() else None,
            settings=settings_of(run),
            metrics={key: metric for stage in run.stages for key, metric in _metrics(stage, several)},
        )
        for run, name in zip(runs, names, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The names of folders without what all of them begin with; a single folder has its own name."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) == 1:
        return [paths[0].name]
    common = Path(os.path.commonpath(paths))
    return [path.relative_to(common).as_posix() if path != common else path.name for path in paths]


def _metrics(stage: Stage, several: bool) -> list[tuple[str, Metric]]:
    names = dict.fromkeys([*METRICS, *gold_names(stage), *stage.result.metrics])
    found = []
    for name in names:
        value = final(stage, name)
        if value is not None:
            label, show, _ = described(stage, name)
            key, title = (f"{stage.name}.{name}", f"{label}, {stage.record.short_title}") if several else (name, label)
            found.append((key, Metric(title, value, show)))
    return found
