"""The picture of a sweep in parallel coordinates: an upright axis for each setting and metric, and a line for each run.

Source: Inselberg, "The plane with parallel coordinates" (1985).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_rlhf.report.axes import ticks
from lightning_rlhf.report.comparison.differences import ABSENT, number_in
from lightning_rlhf.report.formatting import decimal

HEIGHT, MARGIN = 280, 84
"""The height of the axes, and the room beside the outer ones, in the units of the picture."""
_CLOSEST, _WIDEST, _WIDTH = 168, 320, 956
# Values that are spread over more than this factor get a logarithmic axis.
_WIDE = 20.0
_MAX_LABEL = 22
# The height of a label, as a share of that of the axis.
_LINE = 0.05


@dataclass(frozen=True)
class Axis:
    """One axis. A place is between 0, its lower end, and 1, its upper end."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    """The places that have a label."""
    places: tuple[float | None, ...]
    """The place of each run; None if it has no value."""
    is_metric: bool
    logarithmic: bool = False


def axis(label: str, values: Sequence[str | float | None], *, percent: bool = False, is_metric: bool = False) -> Axis:
    """The axis of a setting or metric.

    Numbers have a linear axis, or a logarithmic one if they are positive and the largest is more than 20 times the
    smallest. If a run has no number, all values are names, which are spread evenly in the order of their first run.

    Args:
        label: What the axis shows.
        values: The value of each run; None if it has none.
        percent: Whether the values are shares.
        is_metric: Whether the values are results.
    """
    numbers = [number_in(value) for value in values]
    known = [number for number in numbers if number is not None]
    named = any(
        number is None and isinstance(value, str) and value != ABSENT
        for number, value in zip(numbers, values, strict=True)
    )
    if named or not known:
        return _of_names(label, values, is_metric)
    low, high = min(known), max(known)
    if not is_metric and low > 0 and high / low > _WIDE:
        return _logarithmic(label, numbers, low, high)
    if low == high:
        places = tuple(None if number is None else 0.5 for number in numbers)
        return Axis(label, ((0.5, decimal(low)),), places, is_metric)
    span = high - low
    # Few different settings have exact labels, and many have round ones.
    exact = sorted(set(known)) if not is_metric else []
    labels = {value: decimal(value) for value in exact} if 0 < len(exact) <= 6 else ticks(low, high, 5, percent=percent)
    return Axis(
        label,
        _legible([((value - low) / span, text) for value, text in labels.items()]),
        tuple(None if number is None else (number - low) / span for number in numbers),
        is_metric,
    )


def _logarithmic(label: str, numbers: Sequence[float | None], low: float, high: float) -> Axis:
    start, span = math.log10(low), math.log10(high / low)
    exact = sorted({number for number in numbers if number is not None})
    if len(exact) > 6:
        powers = range(math.ceil(start), math.floor(math.log10(high)) + 1)
        exact = [10.0**power for power in powers] or [low, high]
    return Axis(
        label,
        _legible([((math.log10(value) - start) / span, decimal(value)) for value in exact]),
        tuple(None if number is None else (math.log10(number) - start) / span for number in numbers),
        is_metric=False,
        logarithmic=True,
    )


def _legible(labels: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """The labels, from the lowest, without those that would be written over another one."""
    kept: list[tuple[float, str]] = []
    for place, text in labels:
        if not kept or place - kept[-1][0] >= _LINE:
            kept.append((place, text))
    return tuple(kept)


def _of_names(label: str, values: Sequence[str | float | None], is_metric: bool) -> Axis:
    names = list(dict.fromkeys(str(value) for value in values if value is not None))
    at = {name: 0.5 if len(names) == 1 else place / (len(names) - 1) for place, name in enumerate(names)}
    places = tuple(None if value is None else at[str(value)] for value in values)
    return Axis(label, _legible([(place, _short(name)) for name, place in at.items()]), places, is_metric)


def _short(name: str) -> str:
    """The end of a long name, because paths differ there."""
    return name if len(name) <= _MAX_LABEL else f"…{name[1 - _MAX_LABEL :]}"


def spacing(axes: Sequence[Axis]) -> int:
    """The distance of the axes, which fill the width of a page if there are few of them."""
    return min(max(_WIDTH // max(len(axes) - 1, 1), _CLOSEST), _WIDEST)


def line(axes: Sequence[Axis], run: int) -> str:
    """The commands of the SVG path of a run, which has a gap where it has no value."""
    commands, pen_down = [], False
    for number, each in enumerate(axes):
        place = each.places[run]
        if place is None:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{MARGIN + spacing(axes) * number} {HEIGHT * (1 - place):.1f}")
        pen_down = True
    return "".join(commands)
