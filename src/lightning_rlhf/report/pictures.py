"""Draws the plots of a stage as small inline SVG pictures that follow the light or dark theme of the page."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from lightning_rlhf.report.curves import Curve, curves, ends_of, levels_of
from lightning_rlhf.report.formatting import decimal, percent
from lightning_rlhf.report.painting import paint
from lightning_rlhf.report.plots import SECOND, Ink, Plot
from lightning_rlhf.report.run import Stage

# Placeholders for the colours of the page's style sheet, so that a picture turns dark when the page does.
_HEX = {"accent": "#a10001", "contrast": "#a10002", "muted": "#a10003", "faint": "#a10004"}
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "path.simplify": True, "font.size": 8.5}
_HEIGHT_INCHES = 2.4
# The width of a picture by the number of pictures in its row. The gaps between them have the width of the page's grid.
_WIDTHS = {1: 13.4, 2: 6.45, 3: 4.2}


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


def draw(stage: Stage, plot: Plot, *, title: str, in_row: int) -> Picture:
    """Draws a plot, for whose lines `is_drawn` must hold.

    Args:
        stage: The stage.
        plot: The plot.
        title: The title of the picture.
        in_row: The number of pictures in its row of the page, 1 to 3.
    """
    found, show = curves(stage, plot), percent if plot.percent else decimal
    levels = levels_of(stage, plot)
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
    ends = ends_of(plot, found, list(levels.values()))
    svg = _draw(stage, plot, found, levels.values(), ends, _WIDTHS[3])
    wide = None if in_row == 3 else _draw(stage, plot, found, levels.values(), ends, _WIDTHS[in_row])
    return Picture(title, plot.caption + _outside(found, ends), tuple(keys), svg, in_row, wide)


def _outside(found: list[Curve], ends: tuple[float, float]) -> str:
    """Says where a curve begins if that is outside the ends of the y axis."""
    low, high = ends
    starts = [(curve.drawn.y[0], (curve.raw or curve.drawn).y[0]) for curve in found if curve.drawn.y.size]
    start = next((float(raw) for drawn, raw in starts if drawn < low or drawn > high), None)
    return "" if start is None else f" It begins at {decimal(start)}, outside the picture."


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
        paint(axes, stage, plot, found, levels, ends, _HEX)
        figure.text(0, 0.93, plot.unit, color=_HEX["muted"])
        return _svg(figure)


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
