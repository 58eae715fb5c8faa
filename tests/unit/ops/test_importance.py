"""The importance ratios by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.importance import truncated_importance

# The ratios of the tokens are 3, 1 and 1/2 in the first response, and 4 in the second, which has one token. Outside the
# mask, any value is allowed.
RATIOS = torch.tensor([[3.0, 1.0, 0.5], [4.0, 1.0, 1.0]])
SAMPLER = torch.tensor([[-2.0, -0.5, -1.0], [-3.0, math.nan, -math.inf]])
LOGPROBS = SAMPLER + RATIOS.log()
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()


@pytest.mark.parametrize(
    ("level", "ceiling", "weights", "mean", "largest", "clipped"),
    [
        # Of four tokens, those with the ratios 3 and 4 are above the ceiling of 2. (3 + 1 + 1/2 + 4) / 4 = 2.125.
        ("token", 2.0, [[2.0, 1.0, 0.5], [2.0, 1.0, 1.0]], 2.125, 4.0, 0.5),
        ("token", 3.5, [[3.0, 1.0, 0.5], [3.5, 1.0, 1.0]], 2.125, 4.0, 0.25),
        # The products are 3 · 1 · 1/2 = 1.5 and 4, and (3 · 1.5 + 4) / 4 = 2.125 by chance again.
        ("sequence", 2.0, [[1.5, 1.5, 1.5], [2.0, 1.0, 1.0]], 2.125, 4.0, 0.25),
        ("sequence", 1.0, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 2.125, 4.0, 1.0),
    ],
)
def test_the_ratios_by_hand(
    level: str, ceiling: float, weights: list[list[float]], mean: float, largest: float, clipped: float
) -> None:
    found = truncated_importance(LOGPROBS, SAMPLER, MASK, level=level, ceiling=ceiling)
    assert_close(found.weights, torch.tensor(weights))
    assert_close(torch.stack([found.mean, found.max, found.clipped]), torch.tensor([mean, largest, clipped]))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_an_engine_that_equals_the_scorer_is_not_corrected(level: str) -> None:
    found = truncated_importance(LOGPROBS, LOGPROBS, MASK, level=level, ceiling=1.0)
    assert torch.equal(found.weights, torch.ones(2, 3))
    assert found.clipped == 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_without_tokens_there_is_no_ratio(level: str) -> None:
    found = truncated_importance(LOGPROBS, SAMPLER, torch.zeros(2, 3).bool(), level=level, ceiling=2.0)
    assert torch.equal(found.weights, torch.ones(2, 3))
    assert (found.mean, found.max, found.clipped) == (0, 0, 0)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_nothing_waits_for_the_numbers_of_the_device(level: str) -> None:
    # Tensors on this device have shapes and no numbers.
    numbers, mask = torch.empty(2, 3, device="meta"), torch.empty(2, 3, dtype=torch.bool, device="meta")
    found = truncated_importance(numbers, numbers, mask, level=level, ceiling=2.0)
    assert [part.shape for part in found] == [(2, 3), (), (), ()]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_ratios_stay_finite_and_have_no_gradient(level: str) -> None:
    far: Tensor = torch.full((1, 400), 300.0, requires_grad=True)
    found = truncated_importance(far, -far, torch.ones(1, 400).bool(), level=level, ceiling=1e30)
    assert found.weights.isfinite().all()
    assert not found.weights.requires_grad
