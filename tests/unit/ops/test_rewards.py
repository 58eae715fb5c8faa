"""Token rewards from scores."""

import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf.ops.rewards import last_token_index, overlong_penalty, shape_rewards


def test_the_last_token_is_found_behind_padding_on_either_side() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()
    assert last_token_index(mask).tolist() == [3, 1, 3, 3, 0]


@pytest.mark.parametrize("garbage", [0.0, 7.0, float("inf"), float("nan")])
def test_the_score_stands_on_the_last_token_and_the_penalty_on_each(garbage: float) -> None:
    kl = torch.tensor([[1.0, -2.0, 3.0], [4.0, garbage, garbage], [garbage, garbage, garbage]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    rewards = shape_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.5)
    # -0.5 · (1, -2, 3) with 10 added at the end; -0.5 · 4 + 20; and nothing for a row without a token.
    assert_close(rewards, torch.tensor([[-0.5, 1.0, 8.5], [18.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("garbage", [0.0, 7.0, float("nan")])
def test_a_score_of_a_token_stands_on_that_token(garbage: float) -> None:
    kl, mask = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    token_scores = torch.tensor([[0.5, 0.0, -0.25], [2.0, garbage, garbage]])
    rewards = shape_rewards(torch.tensor([10.0, 20.0]), kl, mask, kl_coef=0.5, token_scores=token_scores)
    # -0.5 + 0.5, 1, -1.5 - 0.25 + 10; -2 + 2 + 20.
    assert_close(rewards, torch.tensor([[0.0, 1.0, 8.25], [20.0, 0.0, 0.0]]))


def test_rewards_have_the_precision_of_the_penalty() -> None:
    rewards = shape_rewards(
        torch.tensor([1], dtype=torch.float64), torch.ones(1, 2), torch.ones(1, 2).bool(), kl_coef=1
    )
    assert_close(rewards, torch.tensor([[-1.0, 0.0]]))


def test_the_overlong_penalty_grows_in_the_buffer_and_stops_at_minus_1() -> None:
    # DAPO's limit of 20480 and buffer of 4096, divided by 1024: no penalty up to 16 tokens, then a quarter for each.
    lengths = torch.tensor([1, 15, 16, 17, 18, 19, 20, 21])
    penalties = overlong_penalty(lengths, max_length=20, buffer=4)
    assert_close(penalties, torch.tensor([0.0, 0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]))
