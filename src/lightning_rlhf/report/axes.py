"""The axes of a picture: which values they span, and which of them have a label."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lightning_rlhf.report.run import Series

# The share of a curve that counts as its beginning, and how much longer the axis would have to be to show it.
_BEGINNING = 0.1
_STEEP = 2.0
_MARGIN = 0.07


def limits(curves: Sequence[Series], *, settles: bool, from_zero: bool) -> tuple[float, float]:
    """The ends of the y axis.

    Args:
        curves: All that is drawn, with at least one finite value.
        settles: Whether a steep beginning may lie outside. It does if showing it would leave less than half of the
            axis to all later values.
        from_zero: Whether the axis starts at zero, unless there are negative values.
    """
    low, high = _ends([curve.y for curve in curves])
    if settles and sum(len(curve.x) for curve in curves) >= 20:
        start, end = _ends([curve.x for curve in curves])
        later = [curve.y[curve.x > start + _BEGINNING * (end - start)] for curve in curves]
        if any(np.isfinite(y).any() for y in later):
            later_low, later_high = _ends(later)
            if high - low > _STEEP * (later_high - later_low) > 0:
                low, high = later_low, later_high
    if from_zero:
        low = min(low, 0.0)
    margin = _MARGIN * ((high - low) or abs(high) or 1.0)
    return (low if from_zero and low == 0 else low - margin), high + margin


def _ends(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    together = np.concatenate(values)
    return float(np.nanmin(together)), float(np.nanmax(together))


def ticks(low: float, high: float, count: int, *, percent: bool = False, whole: bool = False) -> dict[float, str]:
    """The round values of an axis, each with a label that no other has.

    Args:
        low: The lower end of the axis.
        high: The upper end.
        count: The greatest number of steps between the values.
        percent: Whether the values are shares to show as percentages.
        whole: Whether only whole numbers have labels.
    """
    locator = MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10])
    inside = (float(value) for value in locator.tick_values(low, high) if low <= value <= high)
    values = [value for value in inside if value <= 1 or not percent]
    return dict(zip(values, tick_labels(values, percent=percent), strict=True))


def tick_labels(values: Sequence[float], *, percent: bool = False) -> list[str]:
    """Writes evenly spaced values with as many digits as tell them apart."""
    largest = max(map(abs, values), default=0.0)
    factor, unit = (100.0, "%") if percent else (1.0, "")
    if not percent and largest and not 1e-3 <= largest < 1e6:
        exponent = math.floor(math.log10(largest))
        factor, unit = 10.0**-exponent, f"e{exponent}"
    scaled = [value * factor for value in values]
    step = min((abs(b - a) for a, b in zip(scaled, scaled[1:], strict=False)), default=1.0)
    digits = next((n for n in range(12) if all(abs(round(v, n) - v) < step / 100 for v in scaled)), 12)
    return [_label(value, digits, unit) for value in scaled]


def _label(value: float, digits: int, unit: str) -> str:
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return f"0{unit}" if unit == "%" else "0"
    return f"{text}{unit}".replace("-", "−")
