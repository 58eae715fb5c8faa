"""Every metric of a stage as a small curve, drawn with few bytes, because there may be a hundred of them."""

from dataclasses import dataclass

import numpy as np

from lightning_rlhf.report.formatting import decimal
from lightning_rlhf.report.run import Series, Stage
from lightning_rlhf.report.smoothing import thin

WIDTH, HEIGHT = 240, 44
"""The size of the picture in the units of its path."""
_MARGIN = 3


@dataclass(frozen=True)
class Sparkline:
    """The curve of one metric. The path has a gap where a value is not finite."""

    name: str
    path: str
    dot: tuple[float, float] | None
    """The only point of a metric that was logged once."""
    first: str
    last: str
    low: str
    high: str
    points: int


def sparklines(stage: Stage) -> list[Sparkline]:
    """The curves of all metrics of a stage that have a finite value, in the order of their names."""
    end = max((series.x[-1] for series in stage.series.values()), default=1.0)
    known = [(name, series) for name, series in sorted(stage.series.items()) if series.last is not None]
    return [_sparkline(name, series, end) for name, series in known]


def _sparkline(name: str, series: Series, end: float) -> Sparkline:
    finite = series.y[np.isfinite(series.y)]
    low, high = float(finite.min()), float(finite.max())
    drawn = thin(series)
    span = high - low
    x = _MARGIN + (WIDTH - 2 * _MARGIN) * drawn.x / (end or 1.0)
    share = (drawn.y - low) / span if span else np.where(np.isfinite(drawn.y), 0.5, np.nan)
    y = HEIGHT - _MARGIN - (HEIGHT - 2 * _MARGIN) * share
    places = [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x, y, strict=True)]
    return Sparkline(
        name=name,
        path=_path(places),
        dot=next(place for place in places if not np.isnan(place[1])) if len(finite) == 1 else None,
        first=decimal(float(finite[0])),
        last=decimal(float(finite[-1])),
        low=decimal(low),
        high=decimal(high),
        points=len(finite),
    )


def _path(places: list[tuple[float, float]]) -> str:
    """The commands of an SVG path, which begins anew after each gap."""
    commands, pen_down = [], False
    for x, y in places:
        if np.isnan(y):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x:g} {y:g}")
        pen_down = True
    return "".join(commands)
