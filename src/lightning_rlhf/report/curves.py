"""The lines of a plot as they are drawn: smoothed where they are noisy, with bands around them, on a common y axis."""

from dataclasses import dataclass

import numpy as np

from lightning_rlhf.report.axes import limits
from lightning_rlhf.report.intervals import wilson
from lightning_rlhf.report.measures import num_rows
from lightning_rlhf.report.plots import Line, Plot
from lightning_rlhf.report.run import Series, Stage
from lightning_rlhf.report.smoothing import smooth, thin, typical


@dataclass(frozen=True)
class Curve:
    """One line of a plot as it is drawn, with the raw values behind it if it is smoothed, and a band around it."""

    line: Line
    drawn: Series
    raw: Series | None
    band: tuple[Series, Series] | None


def curves(stage: Stage, plot: Plot) -> list[Curve]:
    """The lines of a plot that were logged."""
    return [_curve(stage, line, series) for line in plot.lines if (series := _series(stage, line, plot)) is not None]


def _series(stage: Stage, line: Line, plot: Plot) -> Series | None:
    """The points of a line. In a plot against another metric, they are the positions where both were logged."""
    y = stage.series.get(line.column)
    if y is None or plot.against is None:
        return y
    x = stage.series.get(plot.against)
    if x is None:
        return None
    _, in_x, in_y = np.intersect1d(x.x, y.x, return_indices=True)
    return Series(x.y[in_x], y.y[in_y])


def _curve(stage: Stage, line: Line, series: Series) -> Curve:
    smoothed = smooth(series)
    drawn = thin(series if smoothed is None else smoothed)
    band = None
    spread, rows = stage.series.get(line.spread or ""), num_rows(stage, line.column.rpartition("/")[2])
    if line.share and rows:
        intervals = np.array([wilson(y, rows) if 0 <= y <= 1 else (y, y) for y in drawn.y.tolist()])
        band = Series(drawn.x, intervals[:, 0]), Series(drawn.x, intervals[:, 1])
    elif spread is not None and np.array_equal(spread.x, series.x):
        width = thin(smooth(spread) or spread).y
        band = Series(drawn.x, drawn.y - width), Series(drawn.x, drawn.y + width)
    return Curve(line, drawn, None if smoothed is None else thin(series), band)


def levels_of(stage: Stage, plot: Plot) -> dict[str, float]:
    """The final metrics that a plot draws as horizontal lines, by their labels."""
    levels = {label: stage.result.metrics.get(name, np.nan) for name, label in plot.levels}
    return {label: level for label, level in levels.items() if np.isfinite(level)}


def ends_of(plot: Plot, found: list[Curve], levels: list[float]) -> tuple[float, float]:
    """The ends of the y axis of a plot with these curves and horizontal lines."""
    shown = [curve.drawn for curve in found] + [edge for curve in found if curve.band for edge in curve.band]
    # Spikes of a loss or of a gradient are less interesting than the level around them.
    shown += [typical(curve.raw) if plot.settles else curve.raw for curve in found if curve.raw is not None]
    if levels:
        x = shown[0].x[-1:]
        shown += [Series(x, np.array([level])) for level in levels]
    return limits(shown, settles=plot.settles, from_zero=plot.from_zero)
