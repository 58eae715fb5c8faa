"""κ: how far two raters (Cohen), or several (Fleiss), agree beyond chance."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Kappa(NamedTuple):
    """Cohen's κ with its 95% interval.

    Attributes:
        value: 1 is full agreement, and 0 is that of chance; NaN if chance alone agrees perfectly, because both raters
            gave a single rating.
        low: Lower end of the interval, from the asymptotic variance (Fleiss, Cohen and Everitt, 1969).
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


def cohens_kappa(first: Sequence[int], second: Sequence[int], num_ratings: int, *, ordered: bool = False) -> Kappa:
    """Computes Cohen's κ. It needs statsmodels, which the extras `langchain` and `web` install.

    Args:
        first: The ratings of one rater, from 0 to `num_ratings` - 1.
        second: The ratings of the other, of the same rows.
        num_ratings: Number of possible ratings.
        ordered: Whether ratings that are close agree in part: κ then has quadratic weights (Cohen, 1968).
    """
    # Imported here because it takes a second, and κ is not always wanted.
    from statsmodels.stats import inter_rater

    table = np.zeros((num_ratings, num_ratings), dtype=int)
    np.add.at(table, (np.asarray(first), np.asarray(second)), 1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = inter_rater.cohens_kappa(table, wt="quadratic" if ordered else None)
    return Kappa(float(found.kappa), max(float(found.kappa_low), -1.0), min(float(found.kappa_upp), 1.0))


def fleiss_kappa(ratings: Sequence[Sequence[int]]) -> float:
    """Computes Fleiss' κ (1971) with statsmodels; NaN if all ratings are the same.

    Args:
        ratings: For each row, the ratings of all raters, whole numbers of any range.
    """
    from statsmodels.stats import inter_rater

    counts, _ = inter_rater.aggregate_raters(np.asarray(ratings))
    with np.errstate(all="ignore"):
        return float(inter_rater.fleiss_kappa(counts, method="fleiss"))
