"""Policy losses side by side: a wider upper range, the dual clip, the ratio of a whole response, and one's own."""

from collections.abc import Callable
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.losses import (
    POLICY_LOSSES,
    PolicyBatch,
    PolicyLoss,
    TokenLosses,
    clipped,
    dual_clip,
    gspo,
    policy_loss,
    sequence_log_ratio,
    token_log_ratio,
    weighted_policy_loss,
)

ONE = torch.ones(1, 1, dtype=torch.bool)
NAN = float("nan")


def one_token(
    loss: Callable[..., TokenLosses], ratio: float, advantage: float, **settings: float
) -> tuple[PolicyLoss, float]:
    """Returns the loss of a response of one token at clip range 0.2, and its derivative by the log-ratio."""
    logprobs = torch.tensor([[log(ratio)]], requires_grad=True)
    batch = PolicyBatch(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), ONE)
    policy = weighted_policy_loss(loss(batch, clip_range=0.2, **settings), ONE, 1.0)
    (gradient,) = torch.autograd.grad(policy.loss, logprobs)
    return PolicyLoss(*(term.detach() for term in policy)), float(gradient)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # The upper edge moves from 1.2 to 1.3: the loss is -2 · min(ratio, 1.3), with slope -2 · ratio below the edge.
        (1.25, 2.0, -2.5, -2.5),
        (1.35, 2.0, -2.6, 0.0),
        # The lower edge stays at 0.8: the loss is 2 · max(ratio, 0.8).
        (0.85, -2.0, 1.7, 1.7),
        (0.75, -2.0, 1.6, 0.0),
    ],
)
def test_clip_higher_moves_the_upper_edge_only(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    policy, derivative = one_token(clipped, ratio, advantage, clip_range_high=0.3)
    assert float(policy.loss) == pytest.approx(loss, rel=1e-6)
    assert derivative == pytest.approx(gradient, rel=1e-6)
    assert float(policy.clip_fraction) == (gradient == 0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "held_back"),
    [
        # Without the bound, a ratio of 10 on a negative advantage would cost 2 · 10; with it 2 · 3, with no push.
        (10.0, -2.0, 6.0, 0.0, 1.0),
        # Below the bound nothing changes: the loss is 2 · 2.
        (2.0, -2.0, 4.0, 4.0, 0.0),
        # The lower edge of the clip still applies: the loss is 2 · 0.8.
        (0.5, -2.0, 1.6, 0.0, 1.0),
        # A positive advantage has no second bound: the loss is -2 · 1.2 above the usual clip, and -2 · 0.1 below it.
        (10.0, 2.0, -2.4, 0.0, 1.0),
        (0.1, 2.0, -0.2, -0.2, 0.0),
    ],
)
def test_the_dual_clip_bounds_the_loss_of_bad_tokens_only(
    ratio: float, advantage: float, loss: float, gradient: float, held_back: float
) -> None:
    policy, derivative = one_token(dual_clip, ratio, advantage, dual_clip=3.0)
    assert float(policy.loss) == pytest.approx(loss, rel=1e-5)
    assert derivative == pytest.approx(gradient, rel=1e-5)
    assert float(policy.clip_fraction) == held_back


def test_without_the_dual_clip_a_runaway_ratio_dominates() -> None:
    policy, derivative = one_token(clipped, 10.0, -2.0)
    assert float(policy.loss) == pytest.approx(20.0, rel=1e-5)
    assert derivative == pytest.approx(20.0, rel=1e-5)


def test_the_ratio_of_a_response_is_the_geometric_mean_of_those_of_its_tokens() -> None:
    # Ratios 2 and 8 of a response of two tokens give sqrt(16) = 4. Ratios 1/2, 1 and 16 give the third root of 8, 2.
    logprobs = torch.tensor([[log(2), log(8), NAN], [log(1 / 2), 0.0, log(16)]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    ratios = sequence_log_ratio(logprobs, torch.zeros(2, 3), mask).exp()
    assert_close(ratios, torch.tensor([[4.0, 4.0, 1.0], [2.0, 2.0, 2.0]]))


def test_the_loss_of_a_response_as_a_whole_by_hand() -> None:
    # The advantages are 3 and -1, and the clip range is 0.5. Response 0 has ratio 4, clipped to 1.5: -3 · 1.5. Row 1
    # has ratio 2, which is not clipped: 1 · 2. The mean of both is (-4.5 + 2) / 2, and 2 of 5 tokens are clipped.
    logprobs = torch.tensor([[log(2), log(8), NAN], [log(1 / 2), 0.0, log(16)]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    batch = PolicyBatch(logprobs, torch.zeros(2, 3), torch.tensor([[3.0] * 3, [-1.0] * 3]), mask)
    policy = weighted_policy_loss(gspo(batch, clip_range=0.5), mask, mask / mask.sum(1, keepdim=True) / 2)
    assert_close(policy.loss, torch.tensor(-1.25))
    assert_close(policy.clip_fraction, torch.tensor(2 / 5))
    # Half the squared logs are log(4)² / 2 on two tokens and log(2)² / 2 on three.
    assert_close(policy.approx_kl, torch.tensor((2 * log(4) ** 2 + 3 * log(2) ** 2) / 2 / 5))


def gspo_by_definition(new: Tensor, old: Tensor, advantages: Tensor, lengths: list[int], clip_range: float) -> Tensor:
    """-1/G Σ_i min(s_i A_i, clip(s_i) A_i) with s_i = exp(1/|y_i| Σ_t log-ratio): GSPO, equations 5 and 7."""
    terms = []
    for row, length in enumerate(lengths):
        ratio = ((new[row, :length] - old[row, :length]).sum() / length).exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        terms.append(torch.minimum(ratio * advantages[row], clipped * advantages[row]))
    return -torch.stack(terms).mean()


@given(seed=st.integers(0, 999), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_loss_and_gradient_of_whole_responses_are_those_of_the_definition(seed: int, lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    old, moves = torch.randn(2, len(lengths), 5, generator=generator).double()
    advantages = torch.randn(len(lengths), generator=generator).double()
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    results = []
    for definition in (False, True):
        new = (old + 0.3 * moves).requires_grad_()
        if definition:
            loss = gspo_by_definition(new, old, advantages, lengths, clip_range=0.2)
        else:
            weights = mask / mask.sum(1, keepdim=True).double() / len(lengths)
            tokens = gspo(PolicyBatch(new, old, advantages[:, None], mask), clip_range=0.2)
            loss = weighted_policy_loss(tokens, mask, weights).loss
        loss.backward()
        results.append((loss.detach(), new.grad))
    assert_close(results[0], results[1])


@pytest.mark.parametrize("garbage", [1e30, float("inf"), NAN])
def test_garbage_under_the_mask_changes_neither_ratio_nor_gradient(garbage: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    results = []
    for filler in (0.0, garbage):
        logprobs = torch.where(mask, torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.0, 0.0]]), filler).requires_grad_()
        log_ratio = sequence_log_ratio(logprobs, torch.zeros(2, 3), mask)
        log_ratio.exp().sum().backward()
        results.append((log_ratio.detach(), logprobs.grad))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("log_ratio", [token_log_ratio, sequence_log_ratio])
def test_the_first_log_ratio_is_exactly_0(log_ratio: object) -> None:
    logprobs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert callable(log_ratio)
    assert not log_ratio(logprobs, logprobs.clone(), torch.ones(3, 4, dtype=torch.bool)).any()


@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_a_dual_clip_that_would_hold_back_ratios_of_1_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=f"^dual_clip={bound}: must be above 1$"):
        one_token(dual_clip, 1.0, -1.0, dual_clip=bound)


def test_a_new_policy_loss_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICY_LOSSES, "plain", clipped)

    @policy_loss("plain")
    def plain(batch: PolicyBatch) -> TokenLosses:
        """The loss of REINFORCE."""
        log_ratio = token_log_ratio(batch.logprobs, batch.old_logprobs, batch.mask)
        return TokenLosses(-batch.advantages * batch.logprobs, log_ratio, torch.zeros_like(batch.mask))

    assert POLICY_LOSSES["plain"] is plain
    assert set(POLICY_LOSSES) == {"clipped", "dual_clip", "gspo", "plain"}
