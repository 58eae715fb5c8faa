"""Paints a plot on axes of matplotlib, in the colours that the caller chooses."""

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes

from lightning_rlhf.report.axes import ticks
from lightning_rlhf.report.curves import Curve
from lightning_rlhf.report.plots import HELD_OUT, SECOND, Plot
from lightning_rlhf.report.run import Stage

Palette = Mapping[str, str]
"""The colour of each ink, and of `faint` lines."""
_MAX_DOTS = 30


def paint(
    axes: Axes,
    stage: Stage,
    plot: Plot,
    found: list[Curve],
    levels: Iterable[float],
    ends: tuple[float, float],
    palette: Palette,
) -> None:
    """Paints the curves and the horizontal lines of a plot, and labels the axes.

    Args:
        axes: Empty axes.
        stage: The stage.
        plot: The plot.
        found: Its curves, at least one.
        levels: The heights of horizontal lines.
        ends: The ends of the y axis.
        palette: The colours.
    """
    for curve in found:
        _plot(axes, curve, palette)
    for level in levels:
        axes.axhline(level, color=palette[SECOND], linestyle=(0, (3, 2)), linewidth=1)
    axes.set_ylim(*ends)
    axes.margins(x=0.02)
    if plot.against is None:
        # All pictures of a stage show the whole time, even if a metric was first logged late.
        end = max(series.x[-1] for series in stage.series.values())
        axes.set_xlim(-0.02 * end, 1.02 * end)
    _dress(axes, plot, "KL to the start model, nats per response" if plot.against else _time_unit(stage), palette)


def _time_unit(stage: Stage) -> str:
    return "iteration" if stage.record.samples else "step"


def _plot(axes: Axes, curve: Curve, palette: Palette) -> None:
    color, style = palette[curve.line.ink], (0, (3, 2)) if curve.line.dashed else "-"
    if curve.band is not None:
        low, high = curve.band
        axes.fill_between(low.x, low.y, high.y, color=color, alpha=0.13, linewidth=0)
    if curve.raw is not None:
        axes.plot(curve.raw.x, curve.raw.y, color=color, alpha=0.3, linewidth=0.8)
    # Few or isolated points would be invisible as a line alone, and held-out points are always few.
    few = len(curve.drawn.x) <= _MAX_DOTS and (curve.line.ink == HELD_OUT or len(curve.drawn.x) <= 10)
    (line,) = axes.plot(curve.drawn.x, curve.drawn.y, color=color, linestyle=style, linewidth=1.6, markersize=3)
    line.set(marker="o" if few else "", solid_capstyle="round", label=curve.line.label)


def _dress(axes: Axes, plot: Plot, x_label: str, palette: Palette) -> None:
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette["faint"])
    axes.grid(axis="y", color=palette["faint"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=palette["muted"], pad=4)
    x_ticks = ticks(*axes.get_xlim(), 5, whole=plot.against is None)
    y_ticks = ticks(*axes.get_ylim(), 4, percent=plot.percent)
    axes.set_xticks(list(x_ticks), list(x_ticks.values()))
    axes.set_yticks(list(y_ticks), list(y_ticks.values()))
    axes.set_xlabel(x_label, loc="right", color=palette["muted"], labelpad=2)
