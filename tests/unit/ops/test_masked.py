"""Moments over valid tokens: by hand, as published, and independent of what is under the mask."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.masked import masked_mean, masked_sum, masked_unit_variance, masked_var, masked_whiten

NAN, INF = float("nan"), float("inf")


def test_sums_and_means_skip_what_lies_under_the_mask() -> None:
    x = torch.tensor([[1.0, 2.0, NAN], [4.0, INF, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert_close(masked_sum(x, mask), torch.tensor(7.0))
    assert_close(masked_sum(x, mask, dim=1), torch.tensor([3.0, 4.0]))
    assert_close(masked_mean(x, mask), torch.tensor(7 / 3))
    assert_close(masked_mean(x, mask, dim=1), torch.tensor([1.5, 4.0]))


def test_the_gradient_of_a_sum_is_the_mask_even_over_nan() -> None:
    x = torch.tensor([1.0, NAN, INF], requires_grad=True)
    masked_sum(x, torch.tensor([True, False, False])).backward()
    assert_close(x.grad, torch.tensor([1.0, 0.0, 0.0]))


def test_the_mean_of_nothing_is_zero() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert_close(masked_mean(torch.full((2, 2), 3.0), mask, dim=1), torch.tensor([3.0, 0.0]))
    assert_close(masked_mean(torch.full((2, 2), NAN), torch.zeros(2, 2, dtype=torch.bool)), torch.tensor(0.0))


def test_the_variance_is_that_of_a_population() -> None:
    # The mean is 2, and the squared distances are 1, 0, 1: the variance is 2/3, where that of a sample would be 1.
    x, mask = torch.tensor([1.0, 2.0, 3.0, NAN]), torch.tensor([True, True, True, False])
    assert_close(masked_var(x, mask), torch.tensor(2 / 3))


# "The N Implementation Details of RLHF with PPO" (2023) shows what whitening without a shift of the mean makes of these
# numbers, with the population's variance (TensorFlow, lm-human-preferences) and with the sample's (PyTorch).
NUMBERS = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
POPULATION = torch.tensor([[0.0508, 0.4381, 0.8254], [1.2127, 1.6, 1.9873], [2.3746, 2.7619, 3.1492]])
SAMPLE = torch.tensor([[0.1394, 0.5046, 0.8697], [1.2349, 1.6, 1.9651], [2.3303, 2.6954, 3.0606]])
ALL = torch.ones(3, 3, dtype=torch.bool)


def test_whitening_gives_the_published_numbers() -> None:
    assert_close(masked_unit_variance(NUMBERS, ALL), POPULATION, atol=1e-4, rtol=0)
    # The mean is 1.6.
    assert_close(masked_whiten(NUMBERS, ALL), POPULATION - 1.6, atol=1e-4, rtol=0)


def test_whitening_does_not_give_the_published_numbers_of_a_sample_variance() -> None:
    for shift, whitened in [(0.0, masked_unit_variance(NUMBERS, ALL)), (1.6, masked_whiten(NUMBERS, ALL))]:
        away_from_the_mean = NUMBERS != 1.6
        assert ((whitened - (SAMPLE - shift)).abs() > 0.02)[away_from_the_mean].all()


@pytest.mark.parametrize("garbage", [0.0, 1e9, INF, NAN])
def test_unit_variance_keeps_the_mean_of_the_valid_tokens(garbage: float) -> None:
    # The mean is 4, and the variance is ((-3)² + 0² + 3²) / 3 = 6.
    x = torch.tensor([[1.0, 4.0, garbage], [7.0, garbage, garbage]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.tensor([[4 - 3 / 6**0.5, 4.0, 0.0], [4 + 3 / 6**0.5, 0.0, 0.0]])
    assert_close(masked_unit_variance(x, mask), expected)


@pytest.mark.parametrize("garbage", [0.0, 1e9, INF, NAN])
def test_whitening_counts_valid_tokens_only(garbage: float) -> None:
    # The mean is 4, and the variance is ((-3)² + 0² + 3²) / 3 = 6.
    x = torch.tensor([[1.0, 4.0, garbage], [7.0, garbage, garbage]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.tensor([[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]]) / 6**0.5
    assert_close(masked_whiten(x, mask), expected)


@pytest.mark.parametrize("x", [torch.full((2, 2), 5.0), torch.tensor([[5.0, NAN], [NAN, NAN]])])
def test_whitening_numbers_that_are_all_the_same_gives_zeros(x: Tensor) -> None:
    assert_close(masked_whiten(x, ~x.isnan()), torch.zeros(2, 2))
