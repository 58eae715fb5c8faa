"""Estimators of KL(actor || reference) from tokens that the actor sampled, and the controller of the penalty's weight.

Source: J. Schulman, "Approximating KL Divergence" (2020). With d = log p_actor - log p_reference:
k1 = d is unbiased; k2 = d²/2 is biased with low variance; k3 = exp(-d) - 1 + d is unbiased and never negative.

In the rewards, the value of the estimate matters. In the loss, its gradient matters, and the ranking is reversed: the
gradient of k1 is 0 on average, that of k3 is the gradient of another divergence, and that of k2 is the gradient of the
KL at each token (Tang and Munos, "On a few pitfalls in KL divergence gradient estimation for RL", 2025). The gradient
of k2 ignores the effect of a token on the KL of later tokens, which only a penalty in the rewards includes.

k3 grows exponentially where the actor's probability falls below the reference's, and overflows in fp32 at a difference
of -89. In k3 the difference is therefore bounded below at -10: k3 is at most exp(10) - 11 = 22,015, and as a loss it
has no gradient beyond that bound. Other implementations bound it too (verl and OpenRLHF bound k3 itself at 10).
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

_LEAST_DIFFERENCE = -10.0


class KL(NamedTuple):
    """Per-token estimates, each of shape (B, R), in nats."""

    k1: Tensor
    k2: Tensor
    k3: Tensor


def kl_estimates(logprobs: Tensor, ref_logprobs: Tensor) -> KL:
    """Estimates KL(actor || reference) at each token.

    Args:
        logprobs: (B, R) log-probs of the sampled tokens under the actor.
        ref_logprobs: (B, R) log-probs of the same tokens under the reference.
    """
    difference = logprobs - ref_logprobs
    bounded = difference.clamp(min=_LEAST_DIFFERENCE)
    return KL(k1=difference, k2=difference.square() / 2, k3=(-bounded).exp() - 1 + bounded)


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Computes KL(actor || reference) at each position exactly, by a sum over the whole vocabulary.

    Args:
        logits: (…, V) logits of the actor, divided by the temperature.
        ref_logits: (…, V) logits of the reference, divided by the temperature.

    Returns:
        (…) KL, in nats.
    """
    logprobs, ref_logprobs = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def _k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return kl_estimates(logprobs, ref_logprobs).k1


def _k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return kl_estimates(logprobs, ref_logprobs).k2


def _k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return kl_estimates(logprobs, ref_logprobs).k3


def _k3_plus(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    estimates = kl_estimates(logprobs, ref_logprobs)
    return estimates.k2 + (estimates.k3 - estimates.k2).detach()


KL_IN_REWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": _k1, "k2": _k2, "k3": _k3}
"""Penalties of tokens (B, R) by name, computed from the log-probs under the actor and under the reference."""

KL_IN_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k2": _k2, "k3": _k3, "k3+": _k3_plus}
"""Losses of tokens (B, R) by name. `k3+` has the value of k3 and the gradient of k2. k1 is left out, because its
gradient is 0 on average."""


def adaptive_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: float, num_episodes: int) -> float:
    """Moves the weight of the KL penalty towards a target KL.

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section 2.2: the error is
    the relative distance to the target, clipped to ±0.2.

    Args:
        kl_coef: Weight in this iteration.
        kl: Measured KL, in nats per response.
        target: Target KL, in nats per response.
        horizon: Number of episodes over which the weight adapts; a smaller horizon adapts faster.
        num_episodes: Number of responses sampled in this iteration.

    Returns:
        The weight for the next iteration.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)
