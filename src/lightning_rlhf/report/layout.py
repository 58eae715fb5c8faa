"""Arranges the pictures of a section so that no row stays half empty."""

from collections.abc import Mapping, Sequence

from lightning_rlhf.report.constant import constant, is_drawn
from lightning_rlhf.report.curves import curves
from lightning_rlhf.report.formatting import decimal, percent
from lightning_rlhf.report.health_plots import health_plots
from lightning_rlhf.report.pictures import Picture, draw
from lightning_rlhf.report.plots import Place, Plot
from lightning_rlhf.report.run import Stage
from lightning_rlhf.report.stage_plots import stage_plots


def pictures(stages: Sequence[Stage], place: Place) -> tuple[list[Picture], str]:
    """Draws the pictures of a section.

    Args:
        stages: The stages that the section is about; if there are several, titles name the stage.
        place: Which plots are drawn.

    Returns:
        The pictures, and a text on the plots that are not drawn because all their values are the same.
    """
    found = [(stage, plot, curves(stage, plot)) for stage in stages for plot in _plots(stage) if plot.place == place]
    shown = [(stage, plot) for stage, plot, lines in found if is_drawn(plot, lines)]
    flat = [
        f"{_title(stage, plot, stages)} {_values(plot, values)}"
        for stage, plot, lines in found
        if not plot.against and (values := constant(plot, lines)) is not None
    ]
    sizes = [size for size in rows(len(shown)) for _ in range(size)]
    drawn = [
        draw(stage, plot, title=_title(stage, plot, stages), in_row=size)
        for (stage, plot), size in zip(shown, sizes, strict=True)
    ]
    return drawn, "; ".join(flat)


def rows(count: int) -> list[int]:
    """Divides pictures into rows of three and of two: as many rows of three as leave no picture alone."""
    threes, rest = divmod(count, 3)
    if rest == 1 and threes:
        return [3] * (threes - 1) + [2, 2]
    return [3] * threes + ([rest] if rest else [])


def _values(plot: Plot, values: Mapping[str, float]) -> str:
    show = percent if plot.percent else decimal
    return ", ".join(f"{show(value)} ({label})" if label else show(value) for label, value in values.items())


def _plots(stage: Stage) -> list[Plot]:
    return [*stage_plots(stage), *health_plots(stage)]


def _title(stage: Stage, plot: Plot, stages: Sequence[Stage]) -> str:
    return plot.title if len(stages) == 1 else f"{plot.title}, {stage.record.short_title}"
