"""Renders the comparison of runs as one self-contained page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_rlhf.report.comparison.answers import side_by_side
from lightning_rlhf.report.comparison.differences import differences, short_labels
from lightning_rlhf.report.comparison.entry import Entry, entries
from lightning_rlhf.report.comparison.parallel import HEIGHT, MARGIN, Axis, axis, line, spacing
from lightning_rlhf.report.comparison.table import columns, shortened
from lightning_rlhf.report.formatting import percent
from lightning_rlhf.report.html import render_page
from lightning_rlhf.report.run import Run

Group = tuple[str, list[str]]
"""A value of a setting, with the names of the runs that have it."""
_MAX_METRICS = 6
_MAX_ABOUT = 4


def compare(runs: Sequence[Run], page: Path) -> str:
    """The comparison of runs as HTML. All text from the runs is escaped.

    Args:
        runs: At least one run.
        page: The file to which the page will be written, from which its links lead to the cards of the runs.
    """
    found = entries(runs, page)
    differing = differences([entry.settings for entry in found])
    labels = short_labels(list(differing))
    headline = _headline(found)
    axes = [axis(labels[name], values) for name, values in differing.items()]
    axes += [_axis_of(found, name) for name in headline]
    about = [_about(labels, differing, number) for number in range(len(found))]
    table = columns(found, {labels[name]: values for name, values in differing.items()})
    answers = side_by_side(found)
    values: dict[str, Any] = {
        "entries": found,
        "title": f"{len(found)} runs" if len(found) > 1 else "1 run",
        "counts": _counts(found),
        "axes": axes if len(found) > 1 and len(axes) > 1 else [],
        "about": about,
        "lines": [line(axes, number) for number in range(len(found))],
        "colours": [number for number, each in enumerate(axes) if each.is_metric],
        "size": {"spacing": spacing(axes), "height": HEIGHT, "margin": MARGIN},
        "table": table,
        "rows": list(zip(*(column.cells for column in table), strict=True)),
        "differences": _rows(found, differing),
        "answers": answers,
        "data": {"runs": [entry.name for entry in found], "about": about, "prompts": answers["prompts"]},
    }
    return render_page(
        "comparison.html.j2",
        values,
        styles=("page.css", "browser.css", "comparison.css"),
        scripts=("page.js", "comparison.js", "follow.js"),
    )


def _headline(found: Sequence[Entry]) -> list[str]:
    """The metrics that show how the runs went: those at the top of the cards of their last stages."""
    names: list[str] = []
    for entry in found:
        for stage in reversed(entry.run.stages):
            wanted = stage.record.headline
            names += [name for metric in wanted for name in (metric, f"{stage.name}.{metric}") if name in entry.metrics]
    return list(dict.fromkeys(names))[:_MAX_METRICS]


def _axis_of(found: Sequence[Entry], name: str) -> Axis:
    known = next(entry.metrics[name] for entry in found if name in entry.metrics)
    values = [entry.metrics[name].value if name in entry.metrics else None for entry in found]
    return axis(known.label, values, percent=known.show is percent, is_metric=True)


def _about(labels: Mapping[str, str], differing: Mapping[str, Sequence[str]], number: int) -> str:
    """The settings that tell a run from others, because the name of a run in a sweep is a mere number."""
    return ", ".join(
        f"{labels[name]} {shortened(values[number])}" for name, values in list(differing.items())[:_MAX_ABOUT]
    )


def _counts(found: Sequence[Entry]) -> list[tuple[str, int]]:
    statuses = [entry.run.result.status for entry in found]
    return [(status, statuses.count(status)) for status in dict.fromkeys(statuses)]


def _rows(found: Sequence[Entry], differing: Mapping[str, Sequence[str]]) -> list[tuple[str, list[Group]]]:
    """For each setting that differs, its values with the names of the runs that have it."""
    names = [entry.name for entry in found]
    return [
        (
            setting,
            [
                (value, [name for name, own in zip(names, values, strict=True) if own == value])
                for value in dict.fromkeys(values)
            ],
        )
        for setting, values in differing.items()
    ]
