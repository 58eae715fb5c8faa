"""Cohen's kappa and its interval, by hand."""

import math

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.agreement import agreement


def ratings(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The ratings of two raters from the counts of each combination."""
    cells = [(row, column) for row, counts in enumerate(table) for column, n in enumerate(counts) for _ in range(n)]
    return [cell[0] for cell in cells], [cell[1] for cell in cells]


def test_kappa_is_the_agreement_beyond_chance() -> None:
    found = agreement(*ratings([[20, 5], [10, 15]]), 2, ordered=False)
    # 35 of 50 agree. By chance: 25/50 * 30/50 + 25/50 * 20/50 = 0.5. Kappa: (0.7 - 0.5) / 0.5 = 0.4.
    assert found.accuracy == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt (1969), with t = 1 - kappa = 0.6, rows 0.5 and 0.5, columns 0.6 and 0.4:
    # A = 0.4 (1 - 1.1 t)^2 + 0.3 (1 - 0.9 t)^2 = 0.4 * 0.1156 + 0.3 * 0.2116 = 0.10972
    # B = t^2 (0.1 (0.6 + 0.5)^2 + 0.2 (0.4 + 0.5)^2) = 0.36 * 0.283 = 0.10188
    # C = (kappa - 0.5 t)^2 = 0.01; variance = (A + B - C) / (50 * 0.25) = 0.016128; 1.96 deviations are 0.2489.
    assert found.kappa_low == pytest.approx(0.4 - 0.2489, abs=2e-4)
    assert found.kappa_high == pytest.approx(0.4 + 0.2489, abs=2e-4)
    # Wilson's interval of 35 of 50.
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((0.5625, 0.8090), abs=2e-4)


def test_scores_that_are_close_agree_in_part() -> None:
    near, far = [0, 1, 2, 3, 4, 5] * 5, [1, 2, 3, 4, 5, 4] * 5
    assert agreement(near, far, 6, ordered=False).kappa < 0
    # With squared distances: observed 1 in each row; by chance the mean of (i - j)^2 over all pairs of ratings.
    chance = sum((i - j) ** 2 for i in near[:6] for j in far[:6]) / 36
    assert agreement(near, far, 6, ordered=True).kappa == pytest.approx(1 - 1 / chance)


def test_a_single_rating_has_no_kappa() -> None:
    found = agreement([1, 1, 1], [1, 1, 1], 3, ordered=False)
    assert math.isnan(found.kappa)
    assert found.accuracy == 1
    assert "Cohen's kappa undefined, since there is one rating only" in found.told()


def test_no_row_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="^human: the judge gave no verdict"):
        agreement([], [], 2, ordered=False)
