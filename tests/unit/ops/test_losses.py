"""Losses: by hand, at the edges of the clip, in shards, with garbage under the mask, and the direction of the push."""

from collections.abc import Callable
from math import e, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.losses import (
    PolicyBatch,
    PolicyLoss,
    clipped,
    pairwise_loss,
    ppo_value_loss,
    weighted_policy_loss,
)

Loss = Callable[..., Tensor]
GARBAGE = [3.0, -1e30, float("inf"), float("-inf"), float("nan")]


def policy_terms(
    new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, num_tokens: float, clip_range: float = 0.2
) -> PolicyLoss:
    """The clipped policy loss in which every token has the same weight."""
    tokens = clipped(PolicyBatch(new, old, advantages, mask), clip_range=clip_range)
    return weighted_policy_loss(tokens, mask, 1 / num_tokens)


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, num_tokens: float) -> Tensor:
    return policy_terms(new, old, advantages, mask, num_tokens=num_tokens).loss


def value_loss(new: Tensor, old: Tensor, returns: Tensor, mask: Tensor, num_tokens: float) -> Tensor:
    return ppo_value_loss(new, old, returns, mask, clip_range_value=0.2, weights=1 / num_tokens).loss


both_losses = pytest.mark.parametrize("loss", [policy_loss, value_loss])


def token(value: float) -> Tensor:
    """A response of one token."""
    return torch.tensor([[value]])


ONE = torch.ones(1, 1, dtype=torch.bool)


def random_batch(seed: int, num_rows: int = 6, width: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws new and old predictions near each other, targets, and a mask of random lengths, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    old, moves, targets = torch.randn(3, num_rows, width, generator=generator).double()
    lengths = torch.randint(width + 1, (num_rows, 1), generator=generator)
    return old + 0.3 * moves, old, targets, torch.arange(width) < lengths


def test_the_policy_loss_of_three_tokens_by_hand() -> None:
    # The ratios are 1.5, 0.5, 1, the advantages 2, -1, 3, and the clip range is 0.2.
    # token 0: max(-2 · 1.5, -2 · 1.2) = -2.4   held back by the clip
    # token 1: max(1 · 0.5, 1 · 0.8)   = 0.8    held back by the clip
    # token 2: max(-3, -3)             = -3
    # The sum is -4.6, over 4 tokens of the whole minibatch: -1.15; 2 of these 3 tokens are clipped.
    mask = torch.ones(1, 3, dtype=torch.bool)
    logprobs = torch.tensor([[log(1.5), log(0.5), 0.0]])
    policy = policy_terms(logprobs, torch.zeros(1, 3), torch.tensor([[2.0, -1.0, 3.0]]), mask, num_tokens=4)
    assert_close(policy.loss, torch.tensor(-1.15))
    assert_close(policy.clip_fraction, torch.tensor(2 / 3))
    assert_close(policy.approx_kl, torch.tensor((log(1.5) ** 2 + log(0.5) ** 2) / 6))


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient", "held_back"),
    [
        # d loss / d log ratio is -A · ratio, or 0 where the loss is clipped.
        (1.0, 2.0, -2.0, 0.0),
        (1.0, -2.0, 2.0, 0.0),
        # These are past an edge in the wanted direction.
        (1.5, 2.0, 0.0, 1.0),
        (0.5, -2.0, 0.0, 1.0),
        # These are past an edge in the unwanted direction.
        (1.5, -2.0, 3.0, 0.0),
        (0.5, 2.0, -1.0, 0.0),
    ],
)
def test_the_clip_holds_back_only_moves_in_the_wanted_direction(
    ratio: float, advantage: float, gradient: float, held_back: float
) -> None:
    logprobs = token(log(ratio)).requires_grad_()
    policy = policy_terms(logprobs, token(0.0), token(advantage), ONE, num_tokens=1)
    policy.loss.backward()
    assert_close(logprobs.grad, token(gradient))
    assert float(policy.clip_fraction) == held_back


@pytest.mark.parametrize(("log_ratio", "advantage"), [(0.25, 1.0), (-0.25, -1.0)])
def test_the_clip_begins_right_behind_its_edge(log_ratio: float, advantage: float) -> None:
    ratio = token(log_ratio).exp()
    for past_the_edge in (0.0, 1e-6):
        logprobs = token(log_ratio * (1 + past_the_edge)).requires_grad_()
        edge = abs(float(ratio) - 1)
        policy = policy_terms(logprobs, token(0.0), token(advantage), ONE, clip_range=edge, num_tokens=1)
        policy.loss.backward()
        assert_close(logprobs.grad, -advantage * ratio * (past_the_edge == 0))
        assert float(policy.clip_fraction) == (past_the_edge > 0)


def test_the_first_ratio_is_exactly_one() -> None:
    _, old, advantages, mask = random_batch(0)
    policy = policy_terms(old, old, advantages, mask, num_tokens=int(mask.sum()))
    assert_close(policy.loss, -advantages[mask].mean())
    assert float(policy.clip_fraction) == float(policy.approx_kl) == 0


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_step_moves_the_logprob_the_way_of_the_advantage(advantage: float) -> None:
    logits = torch.zeros(1, 1, 4, requires_grad=True)
    policy_loss(logits.log_softmax(-1)[..., 2], token(log(1 / 4)), token(advantage), ONE, 1).backward()
    after = (logits.detach() - 0.1 * logits.grad).log_softmax(-1)[0, 0, 2]
    assert (float(after) - log(1 / 4)) * advantage > 0


def test_a_ratio_too_large_for_exp_stays_finite() -> None:
    policy = policy_terms(token(0.0), token(-1e4), token(-1.0), ONE, num_tokens=1)
    assert_close(policy.loss, torch.tensor(e**20))


def test_the_value_loss_of_three_tokens_by_hand() -> None:
    # The old value is 0, the returns are 1, and the clip range is 0.5.
    # value 0.25: inside the range, (0.75)² = 0.5625
    # value 0.75: clipped to 0.5, max(0.0625, 0.25) = 0.25   held back
    # value -2.0: clipped to -0.5, max(9, 2.25) = 9
    # Half of 9.8125, over 4 tokens, is 1.2265625; 1 of these 3 tokens is clipped.
    mask = torch.ones(1, 3, dtype=torch.bool)
    value = ppo_value_loss(
        torch.tensor([[0.25, 0.75, -2.0]]),
        torch.zeros(1, 3),
        torch.ones(1, 3),
        mask,
        clip_range_value=0.5,
        weights=1 / 4,
    )
    assert_close(value.loss, torch.tensor(1.2265625))
    assert_close(value.clip_fraction, torch.tensor(1 / 3))


def test_a_value_within_the_range_is_not_counted_as_clipped_by_rounding() -> None:
    old, values, returns = 0.1 * torch.randn(3, 1, 10_000, generator=torch.Generator().manual_seed(0))
    within = (values - old).abs() < 0.2
    # In the example, rounding makes old + (value - old) further from the return than the value itself for some tokens.
    assert (((old + (values - old) - returns).square() > (values - returns).square()) & within).sum() > 50
    loss = ppo_value_loss(values, old, returns, within, clip_range_value=0.2, weights=1)
    assert loss.clip_fraction == 0
    beyond = ppo_value_loss(values, old, returns, ~within, clip_range_value=0.2, weights=1)
    # Beyond the range, the larger error still counts.
    clipped = old + (values - old).clamp(-0.2, 0.2)
    held_back = ((clipped - returns).square() > (values - returns).square())[~within].double().mean()
    assert float(beyond.clip_fraction) == pytest.approx(float(held_back), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "gradient"),
    [
        (0.25, -0.75),  # The gradient is value - return.
        (0.5, -0.5),  # The value is at the edge.
        (0.75, 0.0),  # The value is past the edge on the way to the return.
        (-2.0, -3.0),  # The value is past the other edge, away from the return.
    ],
)
def test_the_value_clip_stops_only_moves_towards_the_return(value: float, gradient: float) -> None:
    values = token(value).requires_grad_()
    ppo_value_loss(values, token(0.0), token(1.0), ONE, clip_range_value=0.5, weights=1).loss.backward()
    assert_close(values.grad, token(gradient))


@both_losses
@given(seed=st.integers(0, 999), cuts=st.sets(st.integers(1, 5)))
def test_shards_add_up_to_the_loss_of_the_whole(loss: Loss, seed: int, cuts: set[int]) -> None:
    *tensors, mask = random_batch(seed)
    num_tokens = max(1, int(mask.sum()))
    edges = [0, *sorted(cuts), len(mask)]
    shards = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    parts = [loss(*(tensor[shard] for tensor in tensors), mask[shard], num_tokens) for shard in shards]
    assert_close(sum(parts), loss(*tensors, mask, num_tokens))


@both_losses
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_garbage_under_the_mask_changes_neither_loss_nor_gradient(loss: Loss, garbage: float, place: int) -> None:
    *clean, mask = random_batch(0)
    dirty = list(clean)
    dirty[place] = torch.where(mask, clean[place], garbage)
    results = []
    for new, old, targets in (clean, dirty):
        leaf = new.clone().requires_grad_()
        value = loss(leaf, old, targets, mask, 7)
        value.backward()
        results.append((value, leaf.grad))
    assert_close(results[1], results[0])
    assert not results[1][1][~mask].any()


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_under_the_mask_changes_no_fraction(garbage: float) -> None:
    *clean, mask = random_batch(0)
    dirty = [torch.where(mask, tensor, garbage) for tensor in clean]
    assert_close(
        tuple(policy_terms(*dirty, mask, num_tokens=7)),
        tuple(policy_terms(*clean, mask, num_tokens=7)),
    )
    assert_close(
        tuple(ppo_value_loss(*dirty, mask, clip_range_value=0.2, weights=1 / 7)),
        tuple(ppo_value_loss(*clean, mask, clip_range_value=0.2, weights=1 / 7)),
    )


@both_losses
def test_a_part_without_a_token_adds_nothing(loss: Loss) -> None:
    *tensors, mask = random_batch(0)
    assert float(loss(*tensors, torch.zeros_like(mask), 7)) == 0


def test_the_pairwise_loss_by_hand() -> None:
    # -log sigmoid(d) = log(1 + e^-d), for d = 0, log 3 and, with margin log 3, -log 3.
    chosen, rejected = torch.tensor([1.0, log(3), 0.0]), torch.tensor([1.0, 0.0, 0.0])
    losses = pairwise_loss(chosen, rejected, torch.tensor([0.0, 0.0, log(3)]))
    assert_close(losses, torch.tensor([log(2), log(4 / 3), log(4)]))
    assert_close(pairwise_loss(chosen, rejected)[:2], losses[:2])


def test_the_pairwise_loss_raises_the_chosen_and_lowers_the_rejected_score() -> None:
    # The gradient is ∓sigmoid(-d): 1/2 at d = 0, 1/4 at d = log 3.
    chosen, rejected = torch.tensor([0.0, log(3)], requires_grad=True), torch.zeros(2, requires_grad=True)
    pairwise_loss(chosen, rejected).sum().backward()
    assert_close(chosen.grad, torch.tensor([-0.5, -0.25]))
    assert_close(rejected.grad, torch.tensor([0.5, 0.25]))


def test_a_pair_that_is_far_off_has_a_finite_loss() -> None:
    assert_close(pairwise_loss(torch.tensor([-1e4]), torch.tensor([0.0])), torch.tensor([1e4]))
