"""Intervals and noise, compared with values from tables and with a second way to compute them."""

import math
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from lightning_rlhf.report.intervals import change_of_mean, change_of_share, radius_of_mean, student, wilson


@pytest.mark.parametrize(("share", "count"), [(0.0, 5), (0.3, 10), (0.5, 256), (1.0, 3)])
def test_wilsons_interval_ends_where_the_score_test_begins_to_reject(share: float, count: int) -> None:
    # The ends are the roots p of (share - p)² = z² p (1 - p) / count, which is how Wilson defines them.
    z = NormalDist().inv_cdf(0.975)
    roots = np.roots([1 + z**2 / count, -(2 * share + z**2 / count), share**2])
    assert wilson(share, count) == pytest.approx(sorted(roots.real), abs=1e-9)


def test_wilsons_interval_of_five_successes_in_ten_is_that_of_the_textbooks() -> None:
    # (0.5 + 1.9208/10 ± 1.96 sqrt(0.025 + 0.9604/100)) / 1.38416, see Newcombe (1998), method 3
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.parametrize(
    # Abramowitz and Stegun (1964), table 26.10, one-sided 0.975
    ("freedom", "percentile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_students_percentiles_are_those_of_the_table(freedom: int, percentile: float) -> None:
    assert student(freedom) == pytest.approx(percentile, rel=0.01)


def test_the_interval_of_a_mean_follows_from_its_standard_error() -> None:
    # Of 1, 2, 3, 4 the variance is 5/3, so the standard error is sqrt(5/12) = 0.6455; t(3) = 3.182.
    assert radius_of_mean([1, 2, 3, 4]) == pytest.approx(3.182 * 0.6455, rel=0.01)
    assert radius_of_mean([1.0]) == math.inf


def test_a_share_has_changed_if_a_coin_would_rarely_do_as_much() -> None:
    # The probability that a fair coin falls on one side in all of n throws is 2 / 2**n: 0.0625 for 5, and 0.031 for 6.
    assert not change_of_share(5, 0, 100).significant
    assert change_of_share(6, 0, 100).significant
    assert change_of_share(6, 0, 100).mean == 0.06
    assert not change_of_share(60, 45, 1000).significant
    assert change_of_share(45, 105, 1000).significant


def test_nothing_has_changed_where_no_row_has_changed() -> None:
    assert not change_of_share(0, 0, 10).significant
    assert not change_of_mean([0.0, 0.0]).significant
    assert not change_of_mean([5.0]).significant
    assert change_of_mean([5.0, 5.0]).significant


def test_noise_is_called_a_change_in_one_case_of_twenty() -> None:
    drawn = np.random.default_rng(1).normal(size=(2000, 12))
    assert np.mean([change_of_mean(row.tolist()).significant for row in drawn]) == pytest.approx(0.05, abs=0.015)
    # All outcomes of 12 rows that change by chance, each with its probability.
    tosses = [sum(toss) for toss in product((0, 1), repeat=12)]
    assert np.mean([change_of_share(heads, 12 - heads, 12).significant for heads in tosses]) < 0.05
