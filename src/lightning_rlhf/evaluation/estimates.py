"""Shares and means with their intervals, by the bootstrap.

Rows that share a prompt are not independent, so prompts are resampled instead of rows.
Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13 (percentile intervals).
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from lightning_rlhf.report.intervals import wilson

_RESAMPLES = 5000
# Limits the memory of the resamples that are drawn at a time.
_NUMBERS_AT_A_TIME = 2_000_000


class Estimate(NamedTuple):
    """A number with its 95% confidence interval, and the number of rows behind it."""

    value: float
    low: float
    high: float
    num_rows: int

    def as_dict(self) -> dict[str, float]:
        """The fields by name, for `result.json`."""
        return self._asdict()


def mean_estimate(
    values: Sequence[float], groups: Sequence[Hashable], *, seed: int = 0, share: bool = True
) -> Estimate:
    """Estimates a mean.

    Where all values are the same, resampling cannot tell how sure the mean is. If it is a share of 0 or 1, the interval
    is Wilson's instead, with the number of groups as the number of observations.

    Args:
        values: At least one value.
        groups: The group of each value, such as its prompt; groups are independent of each other.
        seed: Seed of the resampling.
        share: Whether the values lie between 0 and 1, rather than being differences of such values.
    """
    numbers = np.asarray(values, dtype=float)
    index = group_index(groups)
    sums, counts = np.bincount(index, numbers), np.bincount(index).astype(float)
    mean = float(numbers.mean())
    if np.ptp(numbers) == 0:
        low, high = wilson(mean, len(sums)) if share and mean in (0.0, 1.0) else (mean, mean)
        return Estimate(mean, low, high, len(numbers))
    if len(sums) < 2:
        # One group cannot be resampled: nothing is known about others.
        return Estimate(mean, float(numbers.min()), float(numbers.max()), len(numbers))
    return Estimate(mean, *_interval((sums, counts), _ratio, seed, _RESAMPLES, vectorized=True), len(numbers))


def statistic_interval(
    samples: Sequence[np.ndarray],
    groups: Sequence[Hashable],
    statistic: Callable[..., float],
    *,
    seed: int = 0,
    resamples: int = 500,
) -> tuple[float, float]:
    """Estimates the interval of any statistic of rows.

    Args:
        samples: Arrays of equal length; the rows of all of them are resampled together.
        groups: The group of each row; there are at least two.
        statistic: Computes the statistic of resampled arrays.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Returns:
        Lower and upper end.
    """
    index = group_index(groups)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])

    def of_groups(chosen: np.ndarray) -> float:
        rows = np.concatenate([members[group] for group in chosen])
        return statistic(*(sample[rows] for sample in samples))

    return _interval((np.arange(len(members)),), of_groups, seed, resamples, vectorized=False)


def group_index(groups: Sequence[Hashable]) -> np.ndarray:
    """Numbers the groups in the order in which they appear, (rows,)."""
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(group, len(numbers)) for group in groups])


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def _interval(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., object], seed: int, resamples: int, *, vectorized: bool
) -> tuple[float, float]:
    # SciPy takes half a second to import.
    from scipy.stats import bootstrap

    found = bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=vectorized,
        n_resamples=resamples,
        batch=max(1, _NUMBERS_AT_A_TIME // len(samples[0])) if vectorized else 1,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
