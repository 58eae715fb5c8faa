"""The KL estimators and their gradients compared with the exact divergence, and the adaptive weight by hand."""

from collections.abc import Callable
from itertools import product
from math import exp

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.kl import KL_IN_LOSS, KL_IN_REWARD, adaptive_kl_coef, exact_kl, kl_estimates

ACTOR = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def test_the_estimates_of_one_token() -> None:
    # d = -1 - (-1.5) = 0.5: k1 = d, k2 = d²/2 = 0.125, k3 = exp(-0.5) - 1 + 0.5 = 0.1065...
    kl = kl_estimates(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]))
    assert_close(torch.cat(kl), torch.tensor([[0.5], [0.125], [exp(-0.5) - 0.5]]))


def test_k1_and_k3_are_unbiased() -> None:
    # The expectation over the actor's tokens is a sum over all four of them, so there is no sampling noise.
    kl = kl_estimates(ACTOR.log(), REFERENCE.log())
    assert_close((ACTOR * kl.k1).sum(), divergence(ACTOR, REFERENCE))
    assert_close((ACTOR * kl.k3).sum(), divergence(ACTOR, REFERENCE))


def test_k2_approaches_the_divergence_for_near_distributions() -> None:
    def relative_bias(step: float) -> float:
        near = ACTOR + step * (REFERENCE - ACTOR)
        exact = divergence(ACTOR, near)
        return float(((ACTOR * kl_estimates(ACTOR.log(), near.log()).k2).sum() - exact).abs() / exact)

    # The bias is of third order and the divergence of second, so a tenth of the step has a tenth of the relative bias.
    assert relative_bias(0.001) == pytest.approx(relative_bias(0.01) / 10, rel=0.1)


def test_k3_is_never_negative_where_k1_is() -> None:
    kl = kl_estimates(ACTOR.log(), REFERENCE.log())
    assert (kl.k1 < 0).any()
    assert (kl.k3 >= 0).all()


@pytest.mark.parametrize("difference", [-9.0, -11.0, -95.0, -1000.0, 50.0])
def test_k3_and_its_gradients_are_bounded_where_the_actor_is_far_below_the_reference(difference: float) -> None:
    logprobs, ref_logprobs = torch.tensor([difference], requires_grad=True), torch.zeros(1)
    # Below -10, k3 stays at exp(10) - 1 - 10 and has no gradient; above, its gradient is 1 - exp(-d).
    bounded = max(difference, -10.0)
    value, slope = exp(-bounded) - 1 + bounded, (1 - exp(-difference) if difference > -10 else 0.0)
    for name, expected in {"k3": slope, "k3+": difference}.items():  # k3+ has the gradient of k2.
        loss = KL_IN_LOSS[name](logprobs, ref_logprobs)
        assert_close(loss, torch.tensor([value]), rtol=1e-6, atol=0)
        assert_close(torch.autograd.grad(loss.sum(), logprobs)[0], torch.tensor([expected]))
    assert_close(KL_IN_REWARD["k3"](logprobs, ref_logprobs), torch.tensor([value]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_divergence_over_the_whole_vocabulary_is_that_of_torch(dtype: torch.dtype) -> None:
    logits, ref_logits = (3 * torch.randn(2, 2, 3, 11, generator=torch.Generator().manual_seed(0))).to(dtype)
    first, second = (torch.distributions.Categorical(logits=each.double()) for each in (logits, ref_logits))
    expected = torch.distributions.kl_divergence(first, second)
    assert expected.min() > 0.5
    assert_close(exact_kl(logits, ref_logits), expected.float())


def test_the_penalties_by_name_are_the_estimates() -> None:
    logprobs, ref_logprobs = ACTOR.log(), REFERENCE.log()
    kl = kl_estimates(logprobs, ref_logprobs)
    assert KL_IN_REWARD.keys() == {"k1", "k2", "k3"}
    for name, penalty in KL_IN_REWARD.items():
        assert torch.equal(penalty(logprobs, ref_logprobs), getattr(kl, name))
    assert KL_IN_LOSS.keys() == {"k2", "k3", "k3+"}
    for name, loss in KL_IN_LOSS.items():
        assert_close(loss(logprobs, ref_logprobs), getattr(kl, name.rstrip("+")))


LOGITS = ACTOR.log() + 1.0


def gradient_of(function: Callable[[Tensor], Tensor], logits: Tensor = LOGITS) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def expected_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns the expected gradient of a token's loss under the actor, as a sum over the vocabulary."""
    return gradient_of(lambda logits: (ACTOR * loss(logits.log_softmax(-1), REFERENCE.log())).sum())


def test_as_a_loss_k1_has_no_gradient_on_average() -> None:
    assert_close(expected_gradient(KL_IN_REWARD["k1"]), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["k2", "k3+"])
def test_as_a_loss_k2_and_k3_plus_have_the_gradient_of_the_divergence(name: str) -> None:
    exact = gradient_of(lambda logits: divergence(logits.softmax(-1), REFERENCE))
    assert exact.abs().min() > 0.05
    assert_close(expected_gradient(KL_IN_LOSS[name]), exact)


def test_as_a_loss_k3_has_the_gradient_of_the_divergence_the_other_way_round() -> None:
    exact = gradient_of(lambda logits: divergence(logits.softmax(-1), REFERENCE))
    backwards = gradient_of(lambda logits: divergence(REFERENCE, logits.softmax(-1)))
    assert (exact - backwards).abs().max() > 0.1
    assert_close(expected_gradient(KL_IN_LOSS["k3"]), backwards)


def test_only_a_penalty_in_the_rewards_counts_what_a_token_does_to_the_divergence_of_later_ones() -> None:
    # All responses of two tokens out of three. Row 3 of a table is the distribution of the first token; the others are
    # the distributions of the second token after each first one.
    table, reference = 2 * torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    first, second = torch.tensor(list(product(range(3), repeat=2))).T

    def tokens(logits: Tensor) -> Tensor:
        logprobs = logits.log_softmax(-1)
        return torch.stack([logprobs[3, first], logprobs[first, second]], dim=1)

    ref_logprobs = tokens(reference)
    probabilities = tokens(table).sum(1).exp()

    def of_whole_responses(logits: Tensor) -> Tensor:
        return divergence(tokens(logits).sum(1).exp(), ref_logprobs.sum(1).exp())

    def in_the_loss(logits: Tensor) -> Tensor:
        return (probabilities * KL_IN_LOSS["k2"](tokens(logits), ref_logprobs).sum(1)).sum()

    def in_the_rewards(logits: Tensor) -> Tensor:
        # The policy gradient weights each token with the penalties from that token on.
        penalties = KL_IN_REWARD["k1"](tokens(logits).detach(), ref_logprobs)
        to_go = penalties.flip(1).cumsum(1).flip(1)
        return (probabilities * (tokens(logits) * to_go).sum(1)).sum()

    exact = gradient_of(of_whole_responses, table)
    assert_close(gradient_of(in_the_rewards, table), exact)
    # In the loss, the divergence of the second token affects its own distribution, not the choice of the first token.
    assert_close(gradient_of(in_the_loss, table)[:3], exact[:3])
    assert (gradient_of(in_the_loss, table)[3] - exact[3]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # The KL is on target.
        (6.6, 0.15 * (1 + 0.1 * 0.0512)),  # It is 10% above the target: the error is 0.1, times 512 / 10000.
        (5.4, 0.15 * (1 - 0.1 * 0.0512)),
        (7.2, 0.15 * 1.01024),  # It is 20% above the target, where the clip begins: 1 + 0.2 · 0.0512.
        (60.0, 0.15 * 1.01024),  # The error is clipped.
        (0.0, 0.15 * 0.98976),
    ],
)
def test_the_weight_moves_with_the_clipped_relative_error(kl: float, expected: float) -> None:
    coef = adaptive_kl_coef(0.15, kl, target=6.0, horizon=10_000, num_episodes=512)
    assert coef == pytest.approx(expected, rel=1e-12)
