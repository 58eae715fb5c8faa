"""Tells plots that show a change from those whose values are always the same, which get a line of text."""

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.report.curves import Curve
from lightning_rlhf.report.plots import Plot


def is_drawn(plot: Plot, found: list[Curve]) -> bool:
    """Whether a plot shows anything: it has a line with two finite values or more, and not all values are the same.

    Costs have a table, so two or three epochs of them need no picture.
    """
    enough = 4 if plot.place == "costs" else 2
    return any(np.isfinite(curve.drawn.y).sum() >= enough for curve in found) and constant(plot, found) is None


def constant(plot: Plot, found: list[Curve]) -> dict[str, float] | None:
    """The value that each line of a plot has had at all times, by its label.

    Lines with the same value are one, whose label is empty. None if a line has had several values, or if fewer than two
    values were logged.
    """
    lines = {curve.line.label: _finite((curve.raw or curve.drawn).y) for curve in found}
    together = np.concatenate(list(lines.values())) if lines else np.array([])
    if len(together) < 2:
        return None
    if _is_constant(plot, together):
        return {"": 0.0 if np.abs(together).max() < plot.rounding else float(together[-1])}
    if any(len(values) < 2 or not _is_constant(plot, values) for values in lines.values()):
        return None
    return {label: float(values[-1]) for label, values in lines.items()}


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _is_constant(plot: Plot, values: NDArray[np.float64]) -> bool:
    size = np.abs(values).max()
    # An axis from zero cannot show a small difference.
    return bool(size < plot.rounding or np.ptp(values) <= (0.02 if plot.from_zero else 0.005) * size)
