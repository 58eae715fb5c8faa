"""Draws the curves of a run on one figure, for a notebook or a file."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.report.constant import is_drawn
from lightning_rlhf.report.curves import curves, ends_of, levels_of
from lightning_rlhf.report.health_plots import health_plots
from lightning_rlhf.report.painting import paint
from lightning_rlhf.report.plots import HELD_OUT, TRAINING, Line, Plot
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.stage_plots import stage_plots

_PALETTE = {"accent": "#3557d6", "contrast": "#d9622b", "muted": "#6c717c", "faint": "#e6e6e3"}
_COLUMNS = 3
_WIDTH, _HEIGHT = 4.4, 2.7  # inches of a picture


class Sheet(Figure):
    """A figure that a notebook shows where it is the value of a cell, without matplotlib's global state."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=96)
        return file.getvalue()


def draw_run(run: Run, metrics: Sequence[str] | None) -> Sheet:
    """Draws the curves of the stages of a run, three in a row.

    Args:
        run: The run.
        metrics: The metrics to draw; None draws what the run card shows.

    Raises:
        UserError: If no stage has logged one of the metrics, or there is nothing to draw.
    """
    if metrics is None:
        chosen = [(stage, plot) for stage in run.stages for plot in (*stage_plots(stage), *health_plots(stage))]
        chosen = [(stage, plot) for stage, plot in chosen if is_drawn(plot, curves(stage, plot))]
    else:
        chosen = [(stage, _plot_of(name)) for name in metrics for stage in run.stages if _logged(stage, name)]
        known = sorted({name for stage in run.stages for name in stage.series})
        raise_problems(
            f"metrics: {name} has no finite value in {run.folder}; there are {', '.join(known) or 'no metrics'}"
            for name in metrics
            if not any(_logged(stage, name) for stage in run.stages)
        )
    if not chosen:
        raise UserError(f"{run.folder}: there is nothing to draw: no metric has been logged twice")
    return _sheet(run, chosen)


def _logged(stage: Stage, name: str) -> bool:
    series = stage.series.get(name)
    return series is not None and series.last is not None


def _plot_of(name: str) -> Plot:
    return Plot(name, "", (Line(name, name, HELD_OUT if name.startswith("val/") else TRAINING),), "")


def _sheet(run: Run, chosen: Sequence[tuple[Stage, Plot]]) -> Sheet:
    columns = min(len(chosen), _COLUMNS)
    rows = math.ceil(len(chosen) / columns)
    figure = Sheet(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (stage, plot) in zip(np.ravel(grid), chosen, strict=False):
        found, levels = curves(stage, plot), list(levels_of(stage, plot).values())
        paint(axes, stage, plot, found, levels, ends_of(plot, found, levels), _PALETTE)
        title = plot.title if len(run.stages) == 1 else f"{plot.title}, {stage.record.short_title}"
        axes.set_title(f"{title} ({plot.unit})" if plot.unit else title, loc="left", fontsize=9)
        if len(found) > 1:
            axes.legend(fontsize=7, frameon=False)
    for axes in np.ravel(grid)[len(chosen) :]:
        axes.remove()
    return figure
