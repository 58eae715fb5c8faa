"""Makes long and noisy curves readable."""

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.report.run import Series

_MAX_POINTS = 400
_MIN_NOISY = 20
# A curve is noisy if smoothing shortens its way up and down this much.
_SHORTER = 2.0


def thin(series: Series) -> Series:
    """Reduces a series to at most 400 points, each the mean of a few neighbours. A single NaN stays a gap."""
    size = -(-len(series.x) // _MAX_POINTS)
    if size <= 1:
        return series
    starts = np.arange(0, len(series.x), size)
    counts = np.diff(np.append(starts, len(series.x)))
    return Series(np.add.reduceat(series.x, starts) / counts, np.add.reduceat(series.y, starts) / counts)


def smooth(series: Series) -> Series | None:
    """Replaces each value by the mean of its neighbours, a fifteenth of all values around it. NaN stays a gap.

    Near the ends, and around gaps, the mean is over the neighbours that there are.

    Returns:
        The smooth series, or None if the series is short or not noisy.
    """
    count = len(series.y)
    if count < _MIN_NOISY:
        return None
    half = max(2, count // 30)
    known = np.isfinite(series.y)
    window = np.ones(2 * half + 1)
    sums, weights = (_windows(values, window) for values in (np.where(known, series.y, 0.0), known.astype(float)))
    y = np.where(known, sums / np.maximum(weights, 1.0), np.nan)
    return Series(series.x, y) if _way(series.y) > _SHORTER * _way(y) else None


def typical(series: Series) -> Series:
    """Leaves out the tenth of the values that is lowest, and the tenth that is highest."""
    low, high = np.nanquantile(series.y, (0.1, 0.9))
    kept = (low <= series.y) & (series.y <= high)
    return Series(series.x[kept], series.y[kept])


def _windows(values: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the window around each value; outside there are zeros."""
    half = len(window) // 2
    return np.convolve(values, window)[half:-half]


def _way(y: NDArray[np.float64]) -> float:
    """The length of the way up and down that a curve makes."""
    return float(np.abs(np.diff(y[np.isfinite(y)])).sum())
