"""The moments of a stream are those of all its numbers, however it is split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.ops.moments import Moments, update_moments

numbers = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6)


def test_two_batches_by_hand() -> None:
    # 1, 2, 3 have mean 2 and squared distances 1 + 0 + 1. With 6, they have mean 3 and 4 + 1 + 0 + 9 = 14.
    first = update_moments(Moments(), torch.tensor([1.0, 2.0, 3.0]))
    assert first == Moments(3, 2.0, 2.0)
    second = update_moments(first, torch.tensor([6.0]))
    assert second == Moments(4, 3.0, 14.0)
    assert second.std == (14 / 4) ** 0.5


@pytest.mark.parametrize("moments", [Moments(), update_moments(Moments(), torch.tensor([5.0]))])
def test_the_deviation_is_1_as_long_as_there_is_none(moments: Moments) -> None:
    assert moments.std == 1.0


def test_numbers_far_from_zero_keep_their_deviation() -> None:
    # Between these two there is no number in fp32, so their mean must be computed with more digits.
    moments = Moments()
    for _ in range(50):
        moments = update_moments(moments, torch.tensor([1e7, 1e7 + 1]))
    assert moments.mean == pytest.approx(1e7 + 0.5, rel=1e-12)
    assert moments.std == pytest.approx(0.5, rel=1e-9)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_a_stream_has_the_moments_of_all_its_numbers_at_once(batches: list[list[float]]) -> None:
    moments = Moments()
    for batch in batches:
        moments = update_moments(moments, torch.tensor(batch))
    whole = torch.tensor([number for batch in batches for number in batch], dtype=torch.float64)
    assert moments.num_values == len(whole)
    assert moments.mean == pytest.approx(float(whole.mean()), rel=1e-9, abs=1e-9)
    variance = float(whole.var(correction=0))
    assert moments.sum_of_squares / moments.num_values == pytest.approx(variance, rel=1e-9, abs=1e-9)
