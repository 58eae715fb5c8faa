"""Draws the logged metrics of a stage as small inline SVG pictures that follow the light or dark theme of the page."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_rlhf.report.axes import limits, ticks
from lightning_rlhf.report.formatting import decimal, percent
from lightning_rlhf.report.intervals import wilson
from lightning_rlhf.report.measures import num_rows
from lightning_rlhf.report.plots import HELD_OUT, SECOND, Ink, Line, Plot
from lightning_rlhf.report.run import Series, Stage
from lightning_rlhf.report.smoothing import smooth, thin, typical

# Placeholders for the colours of the page's style sheet, so that a picture turns dark when the page does.
_HEX = {"accent": "#a10001", "contrast": "#a10002", "muted": "#a10003", "faint": "#a10004"}
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "path.simplify": True, "font.size": 8.5}
_HEIGHT_INCHES = 2.4
# The width of a picture by the number of pictures in its row. The gaps between them have the width of the page's grid.
_WIDTHS = {1: 13.4, 2: 6.45, 3: 4.2}
_MAX_DOTS = 30


@dataclass(frozen=True)
class Key:
    """One legend entry: the style of its line, and the last value that is drawn, which is empty if there is none."""

    label: str
    ink: Ink
    dashed: bool
    last: str


@dataclass(frozen=True)
class Picture:
    """One drawn plot. `svg` and `wide` contain no text of the run, so they are safe to embed without escaping."""

    title: str
    caption: str
    keys: tuple[Key, ...]
    svg: str
    """The picture for a third of the page, or for a phone. It is drawn for all rows."""
    in_row: int
    """The number of pictures in its row of the page: 1, 2 or 3."""
    wide: str | None
    """The same picture for half of the page or all of it, if there is so much room."""


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


def draw(stage: Stage, plot: Plot, *, title: str, in_row: int) -> Picture:
    """Draws a plot, for whose lines `is_drawn` must hold.

    Args:
        stage: The stage.
        plot: The plot.
        title: The title of the picture.
        in_row: The number of pictures in its row of the page, 1 to 3.
    """
    found, show = curves(stage, plot), percent if plot.percent else decimal
    levels = {label: stage.result.metrics.get(name, np.nan) for name, label in plot.levels}
    levels = {label: level for label, level in levels.items() if np.isfinite(level)}
    keys = [
        Key(
            f"{curve.line.label}, smoothed" if curve.raw else curve.line.label,
            curve.line.ink,
            curve.line.dashed,
            "" if curve.drawn.last is None else show(curve.drawn.last),
        )
        for curve in found
    ]
    keys += [Key(label, SECOND, True, show(level)) for label, level in levels.items()]
    ends = _limits(plot, found, list(levels.values()))
    svg = _draw(stage, plot, found, levels.values(), ends, _WIDTHS[3])
    wide = None if in_row == 3 else _draw(stage, plot, found, levels.values(), ends, _WIDTHS[in_row])
    return Picture(title, plot.caption + _outside(found, ends), tuple(keys), svg, in_row, wide)


def _outside(found: list[Curve], ends: tuple[float, float]) -> str:
    """Says where a curve begins if that is outside the ends of the y axis."""
    low, high = ends
    starts = [(curve.drawn.y[0], (curve.raw or curve.drawn).y[0]) for curve in found if curve.drawn.y.size]
    start = next((float(raw) for drawn, raw in starts if drawn < low or drawn > high), None)
    return "" if start is None else f" It begins at {decimal(start)}, outside the picture."


def _limits(plot: Plot, found: list[Curve], levels: list[float]) -> tuple[float, float]:
    shown = [curve.drawn for curve in found] + [edge for curve in found if curve.band for edge in curve.band]
    # Spikes of a loss or of a gradient are less interesting than the level around them.
    shown += [typical(curve.raw) if plot.settles else curve.raw for curve in found if curve.raw is not None]
    if levels:
        x = shown[0].x[-1:]
        shown += [Series(x, np.array([level])) for level in levels]
    return limits(shown, settles=plot.settles, from_zero=plot.from_zero)


def _draw(
    stage: Stage,
    plot: Plot,
    found: list[Curve],
    levels: Iterable[float],
    ends: tuple[float, float],
    width: float,
) -> str:
    # The salt makes the ids in a picture reproducible, and different from those in other pictures.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"{stage.name} {plot.title} {width}"}):
        figure = Figure(figsize=(width, _HEIGHT_INCHES))
        left, right = 0.57 / width, 0.17 / width
        axes = figure.add_axes((left, 0.155, 1 - left - right, 0.72))
        for curve in found:
            _plot(axes, curve)
        for level in levels:
            axes.axhline(level, color=_HEX[SECOND], linestyle=(0, (3, 2)), linewidth=1)
        axes.set_ylim(*ends)
        axes.margins(x=0.02)
        if plot.against is None:
            # All pictures of a stage show the whole time, even if a metric was first logged late.
            end = max(series.x[-1] for series in stage.series.values())
            axes.set_xlim(-0.02 * end, 1.02 * end)
        _dress(axes, plot, "KL to the start model, nats per response" if plot.against else _time_unit(stage))
        return _svg(figure)


def _time_unit(stage: Stage) -> str:
    return "iteration" if stage.record.samples else "step"


def _plot(axes: Axes, curve: Curve) -> None:
    color, style = _HEX[curve.line.ink], (0, (3, 2)) if curve.line.dashed else "-"
    if curve.band is not None:
        low, high = curve.band
        axes.fill_between(low.x, low.y, high.y, color=color, alpha=0.13, linewidth=0)
    if curve.raw is not None:
        axes.plot(curve.raw.x, curve.raw.y, color=color, alpha=0.3, linewidth=0.8)
    # Few or isolated points would be invisible as a line alone, and held-out points are always few.
    few = len(curve.drawn.x) <= _MAX_DOTS and (curve.line.ink == HELD_OUT or len(curve.drawn.x) <= 10)
    (line,) = axes.plot(curve.drawn.x, curve.drawn.y, color=color, linestyle=style, linewidth=1.6, markersize=3)
    line.set(marker="o" if few else "", solid_capstyle="round")


def _dress(axes: Axes, plot: Plot, x_label: str) -> None:
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_HEX["faint"])
    axes.grid(axis="y", color=_HEX["faint"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_HEX["muted"], pad=4)
    x_ticks = ticks(*axes.get_xlim(), 5, whole=plot.against is None)
    y_ticks = ticks(*axes.get_ylim(), 4, percent=plot.percent)
    axes.set_xticks(list(x_ticks), list(x_ticks.values()))
    axes.set_yticks(list(y_ticks), list(y_ticks.values()))
    axes.set_xlabel(x_label, loc="right", color=_HEX["muted"], labelpad=2)
    axes.figure.text(0, 0.93, plot.unit, color=_HEX["muted"])


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without prolog, metadata and fixed size, and with colours as style variables."""
    file = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # All pictures use the same ids for their groups, but ids must be unique on a page. Nothing refers to these ids.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    for ink, color in _HEX.items():
        svg = svg.replace(color, f"var(--{ink})")
    return svg
