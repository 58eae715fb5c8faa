"""The table of all runs, which the page sorts by any column."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_rlhf.report.comparison.differences import number_in
from lightning_rlhf.report.comparison.entry import Entry
from lightning_rlhf.report.formatting import duration

_MAX_DIGITS = 8


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and what it is sorted by. An empty text has no place in the order, and comes last."""

    text: str
    order: float | str


@dataclass(frozen=True)
class Column:
    """A column with a cell for each run. Numbers are aligned to the right."""

    title: str
    cells: tuple[Cell, ...]
    is_number: bool


def columns(entries: Sequence[Entry], settings: Mapping[str, Sequence[str]]) -> list[Column]:
    """The columns after the name of the run: its status and time, the settings that differ, and the held-out metrics.

    The column of the status is left out if all runs have finished.

    Args:
        entries: The runs.
        settings: For each setting that differs, by its label, the value of each run.
    """
    statuses = [entry.run.result.status for entry in entries]
    times = [entry.run.result.seconds for entry in entries]
    metrics = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    found = [] if set(statuses) == {"finished"} else [_of_texts("Status", statuses)]
    found += [_of_texts(label, values) for label, values in settings.items()]
    if any(time is not None for time in times):
        cells = tuple(Cell("", "") if time is None else Cell(duration(time), time) for time in times)
        found.append(Column("Time", cells, is_number=True))
    return found + [_of_metric(entries, name) for name in metrics]


def shortened(value: str) -> str:
    """A setting, rounded if it is a number with more digits than anyone reads, such as one that a search has chosen."""
    return value if len(value) <= _MAX_DIGITS or number_in(value) is None else f"{float(value):.4g}"


def _of_texts(title: str, values: Sequence[str]) -> Column:
    """Texts, which are sorted as numbers if all of them are numbers."""
    numbers = [number_in(value) for value in values]
    if all(number is not None for number in numbers):
        cells = tuple(Cell(shortened(value), float(value)) for value in values)
        return Column(title, cells, is_number=True)
    return Column(title, tuple(Cell(value, value) for value in values), is_number=False)


def _of_metric(entries: Sequence[Entry], name: str) -> Column:
    title = next(entry.metrics[name].label for entry in entries if name in entry.metrics)
    cells = []
    for entry in entries:
        metric = entry.metrics.get(name)
        if metric is None:
            cells.append(Cell("", ""))
        else:
            cells.append(Cell(metric.shown, metric.value if math.isfinite(metric.value) else ""))
    return Column(title, tuple(cells), is_number=True)
