"""The axes of a picture: what they span, and labels that differ."""

import numpy as np
import pytest

from lightning_rlhf.report.axes import limits, tick_labels, ticks
from lightning_rlhf.report.run import Series


@pytest.mark.parametrize(
    ("low", "high"),
    [(6.6991, 6.7009), (0.0, 1e-7), (-0.0016, 0.0), (0, 4), (0.4999, 0.5001), (-3e-5, 9e-5), (0, 2.5e7), (995, 1005)],
)
@pytest.mark.parametrize("percent", [False, True])
def test_no_two_ticks_have_the_same_label(low: float, high: float, percent: bool) -> None:
    labels = list(ticks(low, high, 4, percent=percent).values())
    assert len(labels) == len(set(labels))
    assert percent or len(labels) > 1


def test_labels_have_the_digits_that_their_distance_needs() -> None:
    assert tick_labels([6.699, 6.7, 6.701]) == ["6.699", "6.700", "6.701"]
    assert tick_labels([0, 0.25, 0.5], percent=True) == ["0%", "25%", "50%"]
    assert tick_labels([0.96, 0.965], percent=True) == ["96.0%", "96.5%"]
    assert tick_labels([-2e-5, 0, 2e-5]) == ["−2e−5", "0", "2e−5"]
    assert tick_labels([0, 1000, 2000]) == ["0", "1,000", "2,000"]


def test_an_axis_of_shares_has_no_label_above_one() -> None:
    assert list(ticks(0, 1.3, 4, percent=True)) == [0, 0.5, 1]


def test_steps_are_whole_numbers() -> None:
    assert list(ticks(0.9, 2.1, 5, whole=True).values()) == ["1", "2"]


def loss(steps: int) -> Series:
    """Falls from 7 to 1 within the first 30 steps, and then by 0.1 to the end."""
    x = np.arange(1.0, steps + 1)
    return Series(x, np.where(x <= 30, 7 - x / 5, 1 - 0.1 * x / steps))


def test_a_loss_axis_is_not_spent_on_the_first_thirty_steps() -> None:
    low, high = limits([loss(500)], settles=True, from_zero=False)
    # The later values lie between 0.9 and 0.99, and the margins are 7% of their distance.
    assert (low, high) == pytest.approx((0.9 - 0.07 * 0.09, 0.99 + 0.07 * 0.09), abs=2e-3)
    assert limits([loss(500)], settles=False, from_zero=False)[1] > 6.8


def test_a_loss_that_falls_evenly_is_shown_from_its_beginning() -> None:
    x = np.arange(1.0, 101)
    assert limits([Series(x, 7 - x / 20)], settles=True, from_zero=False)[1] > 6.95


def test_an_axis_from_zero_begins_there_unless_there_are_negative_values() -> None:
    x = np.array([1.0, 2.0])
    assert limits([Series(x, np.array([3.0, 4.0]))], settles=False, from_zero=True)[0] == 0
    assert limits([Series(x, np.array([-3.0, 4.0]))], settles=False, from_zero=True)[0] < -3
