"""How far a number on the run card may lie from the truth, which follows from the number of answers behind it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution: all intervals have a level of 95%."""


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


class Change(NamedTuple):
    """The mean of what has changed in each row, and the largest mean that chance alone would explain."""

    mean: float
    noise: float

    @property
    def significant(self) -> bool:
        """Whether the change is larger than the noise."""
        return abs(self.mean) > self.noise


def wilson(share: float, count: int) -> Interval:
    """Computes the score interval of a share.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927). Where a tie counts
    half, the variance is smaller than that of a share, so the interval is wider than necessary, and never too narrow.

    Args:
        share: The share, between 0 and 1.
        count: The number of rows that it is a share of, at least 1.
    """
    ratio = _Z**2 / count
    middle = (share + ratio / 2) / (1 + ratio)
    radius = math.sqrt(share * (1 - share) * ratio + ratio**2 / 4) / (1 + ratio)
    return Interval(max(middle - radius, 0.0), min(middle + radius, 1.0))


def radius_of_mean(values: Sequence[float]) -> float:
    """Computes half the width of Student's interval of a mean; it is infinite if there are fewer than two values."""
    count = len(values)
    if count < 2:
        return math.inf
    return student(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)


def student(freedom: int) -> float:
    """Computes the 97.5th percentile of Student's t distribution, to 1% from 3 degrees of freedom on.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5, and for 1 and 2 degrees of
    freedom table 26.10.
    """
    if freedom <= 2:
        return (12.706, 4.303)[freedom - 1]
    terms = (
        (_Z**3 + _Z) / 4,
        (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
        (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    )
    return _Z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def change_of_share(gained: int, lost: int, count: int) -> Change:
    """Compares a share with that of the same rows earlier.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages"
    (1947), with the correction of Edwards (1948) for counts: of the rows that have changed, as many gain as lose, if
    nothing has changed but by chance.

    Args:
        gained: The number of rows that only count now.
        lost: The number of rows that only counted earlier.
        count: The number of all rows.
    """
    noise = _Z * math.sqrt(gained + lost) + 1 if gained or lost else 0.0
    return Change((gained - lost) / count, noise / count)


def change_of_mean(differences: Sequence[float]) -> Change:
    """Compares a mean with that of the same rows earlier, by Student's test for pairs.

    Args:
        differences: How much each row has changed.
    """
    return Change(float(np.mean(differences)), radius_of_mean(differences))
