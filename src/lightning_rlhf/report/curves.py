"""Draws the logged metrics of a stage as small inline SVG pictures that follow the light or dark theme of the page."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from lightning_rlhf.report.numbers import decimal
from lightning_rlhf.report.plots import HELD_OUT, PLOTS, SECOND, Ink, Line, Plot
from lightning_rlhf.report.run import Series, Stage

# Placeholders for the colours of the page's style sheet, so that a picture turns dark when the page does.
_HEX = {"accent": "#a10001", "contrast": "#a10002", "muted": "#a10003", "faint": "#a10004"}
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "path.simplify": True, "font.size": 8.5}
_SIZE_INCHES = (4.2, 2.4)
_MAX_POINTS = 400
_MAX_DOTS = 30


@dataclass(frozen=True)
class Key:
    """One legend entry: the style of its line, and the last finite value, which is empty if there is none."""

    label: str
    ink: Ink
    dashed: bool
    last: str


@dataclass(frozen=True)
class Picture:
    """One drawn plot. `svg` contains no text of the run, so it is safe to embed without escaping."""

    title: str
    caption: str
    svg: str
    keys: tuple[Key, ...]


def draw_curves(stage: Stage, *, health: bool) -> list[Picture]:
    """Draws the plots of health, or all others, for which the stage logged a line with at least two finite points."""
    pictures = []
    for plot in PLOTS:
        if plot.health != health:
            continue
        lines = [(line, series) for line in plot.lines if (series := _series(stage.series, line, plot)) is not None]
        if any(np.isfinite(series.y).sum() >= 2 for _, series in lines):
            pictures.append(_draw(stage, plot, lines))
    return pictures


def _series(logged: Mapping[str, Series], line: Line, plot: Plot) -> Series | None:
    """The points of a line. In a plot against another metric, they are the positions where both were logged."""
    y = logged.get(line.column)
    if y is None or plot.against is None:
        return y
    x = logged.get(plot.against)
    if x is None:
        return None
    _, in_x, in_y = np.intersect1d(x.x, y.x, return_indices=True)
    return Series(x.y[in_x], y.y[in_y])


def _draw(stage: Stage, plot: Plot, lines: list[tuple[Line, Series]]) -> Picture:
    show = _percent if plot.percent else decimal
    keys = []
    # The salt makes the ids in a picture reproducible, and different from those in other pictures.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": f"{stage.name} {plot.title}"}):
        figure = Figure(figsize=_SIZE_INCHES)
        axes = figure.add_axes((0.135, 0.155, 0.825, 0.72))
        for line, series in lines:
            _plot_line(axes, line, series, stage.series.get(line.spread or ""))
            last = series.last
            keys.append(Key(line.label, line.ink, line.dashed, "" if last is None else show(last)))
        for name, label in plot.levels:
            if (level := stage.result.metrics.get(name)) is not None and np.isfinite(level):
                axes.axhline(level, color=_HEX[SECOND], linestyle=(0, (3, 2)), linewidth=1)
                keys.append(Key(label, SECOND, True, show(level)))
        _dress(axes, plot, "KL to the start model, nats per response" if plot.against else _time_unit(stage))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
        return Picture(plot.title, plot.caption, _svg(figure), tuple(keys))


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _time_unit(stage: Stage) -> str:
    return "iteration" if stage.record.samples else "step"


def _plot_line(axes: Axes, line: Line, series: Series, spread: Series | None) -> None:
    x, y = thin(series)
    color = _HEX[line.ink]
    if spread is not None and np.array_equal(spread.x, series.x):
        _, width = thin(spread)
        axes.fill_between(x, y - width, y + width, color=color, alpha=0.13, linewidth=0)
    style = (0, (3, 2)) if line.dashed else "-"
    # Few or isolated points would be invisible as a line alone, and held-out points are always few.
    dots = "o" if len(x) <= _MAX_DOTS and (line.ink == HELD_OUT or len(x) <= 10) else ""
    axes.plot(x, y, color=color, linestyle=style, linewidth=1.6, marker=dots, markersize=3, solid_capstyle="round")


def thin(series: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reduces a series to at most 400 points, each the mean of a few neighbours. A single NaN stays a gap.

    Returns:
        x and y of the points.
    """
    size = -(-len(series.x) // _MAX_POINTS)
    if size <= 1:
        return series.x, series.y
    starts = np.arange(0, len(series.x), size)
    counts = np.diff(np.append(starts, len(series.x)))
    return np.add.reduceat(series.x, starts) / counts, np.add.reduceat(series.y, starts) / counts


def _dress(axes: Axes, plot: Plot, x_label: str) -> None:
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_HEX["faint"])
    axes.grid(axis="y", color=_HEX["faint"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_HEX["muted"], pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=plot.against is None))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02)
    if plot.from_zero:
        axes.set_ylim(bottom=0)
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
