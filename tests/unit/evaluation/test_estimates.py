"""Means and their intervals."""

import numpy as np
import pytest

from lightning_rlhf.evaluation.estimates import group_index, mean_estimate, statistic_interval
from lightning_rlhf.report.intervals import wilson


def test_the_interval_of_a_share_is_about_as_wide_as_the_normal_one() -> None:
    values = [1.0] * 60 + [0.0] * 40
    found = mean_estimate(values, list(range(100)))
    # 1.96 · sqrt(0.6 · 0.4 / 100) = 0.096; the resamples are random, so a tenth of it is allowed.
    assert found.value == 0.6
    assert found.num_rows == 100
    assert found.low == pytest.approx(0.504, abs=0.011)
    assert found.high == pytest.approx(0.696, abs=0.011)


def test_rows_that_share_a_prompt_count_once_for_the_width() -> None:
    values = [1.0, 0.0] * 20
    alone = mean_estimate(values, list(range(40)))
    # Each of 4 prompts has 10 equal rows, so there are 4 observations: 1.96 · sqrt(0.25 / 4) = 0.49.
    together = mean_estimate([float(row // 10 % 2) for row in range(40)], [row // 10 for row in range(40)])
    assert alone.value == together.value == 0.5
    assert alone.high - alone.low == pytest.approx(2 * 0.155, abs=0.05)
    assert together.high - together.low > 0.8


def test_groups_of_different_sizes_weigh_by_their_rows() -> None:
    # Three rows of one prompt and one of another: the mean over rows is 3/4 and not 1/2.
    assert mean_estimate([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).value == 0.75


def test_a_share_of_all_rows_has_the_interval_of_wilson_over_prompts() -> None:
    found = mean_estimate([1.0] * 30, [row // 3 for row in range(30)])
    assert (found.low, found.high) == wilson(1.0, 10)
    assert found.low == pytest.approx(0.722, abs=1e-3)
    # A mean that is no share, or lies between, has no such interval.
    assert mean_estimate([0.25, 0.25], [0, 1])[:3] == (0.25, 0.25, 0.25)
    assert mean_estimate([0.0, 0.0], [0, 1], share=False)[:3] == (0.0, 0.0, 0.0)


def test_one_prompt_says_nothing_about_others() -> None:
    assert mean_estimate([1.0, 0.0, 1.0], ["a"] * 3)[1:3] == (0.0, 1.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, groups = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0], list(range(6))
    assert mean_estimate(values, groups, seed=3) == mean_estimate(values, groups, seed=3)


def test_a_statistic_of_rows_is_resampled_by_prompts_with_rows_kept_together() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    pairs = (x, 2 * x)
    # The slope is 2 in every resample if, and only if, the rows of both arrays stay together.
    low, high = statistic_interval(
        pairs, [row // 2 for row in range(200)], lambda a, b: float((a * b).sum() / (a * a).sum()), resamples=50
    )
    assert (low, high) == (pytest.approx(2), pytest.approx(2))
    sizes: list[int] = []
    statistic_interval(pairs, [row // 50 for row in range(200)], lambda a, b: sizes.append(len(a)) or 0.5, resamples=20)
    assert set(sizes) == {200}


def test_groups_are_numbered_as_they_appear() -> None:
    assert group_index(["b", "a", "b"]).tolist() == [0, 1, 0]
