"""Advantages, by hand and compared with the defining sum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.advantages import explained_variance, gae


def gae_by_definition(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """A_t = Σ_l (gamma · lambda)^l · (r_{t+l} + gamma · V_{t+l+1} - V_{t+l}) of one response, whose end has value 0."""
    values = [*values, 0.0]
    deltas = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [sum((gamma * gae_lambda) ** n * delta for n, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


def random_responses(seed: int, lengths: list[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
    rewards, values = torch.randn(2, len(lengths), width, generator=torch.Generator().manual_seed(seed)).double()
    return rewards, values, torch.arange(width) < torch.tensor(lengths)[:, None]


def test_three_tokens_by_hand() -> None:
    # Here gamma = lambda = 1/2, so gamma · lambda = 1/4.
    # delta_2 = 4 + 0     - 2 = 2     A_2 = 2
    # delta_1 = 0 + 2 / 2 - 4 = -3    A_1 = -3 + 2 / 4 = -2.5
    # delta_0 = 1 + 4 / 2 - 2 = 1     A_0 = 1 - 2.5 / 4 = 0.375
    rewards, values = torch.tensor([[1.0, 0.0, 4.0]]), torch.tensor([[2.0, 4.0, 2.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    assert_close(advantages, torch.tensor([[0.375, -2.5, 2.0]]))
    assert_close(returns, torch.tensor([[2.375, 1.5, 4.0]]))


@given(
    st.integers(0, 999),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.floats(0.1, 0.99),
    st.floats(0.1, 0.99),
)
def test_the_loop_is_the_defining_sum(seed: int, lengths: list[int], gamma: float, gae_lambda: float) -> None:
    rewards, values, mask = random_responses(seed, lengths, width=7)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for row, length in enumerate(lengths):
        by_definition = gae_by_definition(
            rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, gae_lambda
        )
        expected = torch.tensor(by_definition + [0.0] * (7 - length), dtype=torch.float64)
        assert_close(advantages[row], expected)
        assert_close(returns[row], expected + torch.where(mask[row], values[row], 0))


def test_what_a_tool_wrote_between_two_tokens_is_looked_across() -> None:
    # The advantages of the policy's two tokens with gamma = lambda = 1/2, as if nothing were between them, are
    # A_1 = 4 - 2 = 2, A_0 = 1 + 2 / 2 - 2 + 2 / 4 = 0.5.
    rewards, values = torch.tensor([[1.0, 50.0, 60.0, 4.0]]), torch.tensor([[2.0, 70.0, 80.0, 2.0]])
    mask = torch.tensor([[True, False, False, True]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    assert_close(advantages, torch.tensor([[0.5, 0.0, 0.0, 2.0]]))
    assert_close(returns, torch.tensor([[2.5, 0.0, 0.0, 4.0]]))


def test_with_lambda_1_returns_are_what_came_whatever_the_critic_says() -> None:
    rewards, values, mask = random_responses(0, [4], width=4)
    _, returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    assert_close(returns, rewards.flip(1).cumsum(1).flip(1))


@pytest.mark.parametrize("garbage", [5.0, float("inf"), float("nan")])
def test_what_lies_under_the_mask_changes_nothing(garbage: float) -> None:
    rewards, values, mask = random_responses(0, [3, 1, 0], width=5)
    clean = gae(torch.where(mask, rewards, 0), torch.where(mask, values, 0), mask, gamma=0.9, gae_lambda=0.8)
    dirty = gae(
        torch.where(mask, rewards, garbage), torch.where(mask, values, garbage), mask, gamma=0.9, gae_lambda=0.8
    )
    assert_close(dirty, clean)


def test_more_columns_of_padding_change_nothing() -> None:
    rewards, values, mask = random_responses(0, [3, 2], width=5)
    wide = gae(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    narrow = gae(rewards[:, :3], values[:, :3], mask[:, :3], gamma=0.9, gae_lambda=0.8)
    assert_close(wide[0][:, :3], narrow[0])
    assert_close(wide[1][:, :3], narrow[1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0], 1.0),  # The critic predicts everything.
        ([5.0, 5.0, 5.0], 0.0),  # The critic predicts a constant.
        ([11.0, 12.0, 13.0], 1.0),  # A constant error has no variance.
        ([1.0, 2.0, 4.0], 2 / 3),  # The errors (0, 0, -1) have variance 2/9, and the returns 2/3.
        ([3.0, 2.0, 1.0], -3.0),  # The errors (-2, 0, 2) have variance 8/3.
    ],
)
def test_explained_variance_compares_with_a_constant(values: list[float], expected: float) -> None:
    mask = torch.tensor([[True, True, True, False]])
    predicted, actual = torch.tensor([[*values, float("nan")]]), torch.tensor([[1.0, 2.0, 3.0, float("nan")]])
    assert_close(explained_variance(predicted, actual, mask), torch.tensor(expected))


def test_explained_variance_of_returns_that_never_vary_is_a_number() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert explained_variance(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3), mask).isfinite()
