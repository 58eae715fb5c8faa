"""Probabilities against what is right."""

import math

import pytest

from lightning_rlhf.evaluation.calibration import calibration


def test_a_model_that_knows_nothing_is_calibrated_and_loses_log_n() -> None:
    found = calibration([[0.0, 0.0]] * 10 + [[1.0, 1.0]] * 10)
    # Confidence 1/2, and a tie of two answers counts 1/2.
    assert found.error == pytest.approx(0.0)
    assert found.log_loss == pytest.approx(math.log(2))
    assert calibration([[3.0] * 4] * 5).log_loss == pytest.approx(math.log(4))


def test_a_model_that_is_sure_and_half_right_is_wrong_by_half() -> None:
    found = calibration([[10.0, 0.0]] * 10 + [[0.0, 10.0]] * 10)
    sure = 1 / (1 + math.exp(-10))
    (only,) = found.bins
    assert only == (pytest.approx(sure), 0.5, 20)
    assert found.error == pytest.approx(sure - 0.5)
    # Half the rows cost -log(sure), half -log(1 - sure).
    assert found.log_loss == pytest.approx((-math.log(sure) - math.log(1 - sure)) / 2)


def test_bins_hold_equal_numbers_of_rows_in_order_of_confidence() -> None:
    # 20 rows with confidence sigmoid(1) = 0.731, of which 15 are right; 20 with sigmoid(3) = 0.953, of which 19 are.
    rows = [[1.0, 0.0]] * 15 + [[0.0, 1.0]] * 5 + [[3.0, 0.0]] * 19 + [[0.0, 3.0]]
    found = calibration(rows[::-1])
    assert [one.num_rows for one in found.bins] == [20, 20]
    assert [one.accuracy for one in found.bins] == [0.75, 0.95]
    assert [one.confidence for one in found.bins] == [pytest.approx(0.7311, abs=1e-4), pytest.approx(0.9526, abs=1e-4)]
    assert found.error == pytest.approx((0.75 - 0.7311 + 0.9526 - 0.95) / 2, abs=1e-4)


def test_there_are_at_most_ten_bins_and_no_row_is_lost() -> None:
    found = calibration([[float(row), 0.0] for row in range(407)])
    assert len(found.bins) == 10
    assert sum(one.num_rows for one in found.bins) == 407


def test_scores_of_any_size_give_finite_numbers() -> None:
    found = calibration([[1e6, 0.0], [0.0, 1e6]])
    assert found.log_loss == pytest.approx(5e5)
    assert found.error == pytest.approx(0.5)
