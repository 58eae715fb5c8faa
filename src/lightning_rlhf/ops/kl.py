"""Estimators of KL(actor || reference) from tokens that the actor sampled, and the controller of its weight.

Source: J. Schulman, "Approximating KL Divergence" (2020). With d = log p_actor - log p_reference:
k1 = d is unbiased; k2 = d²/2 is biased with low variance; k3 = exp(-d) - 1 + d is unbiased and never negative.

As a penalty in the rewards each of them is a number. As a loss it is the gradient that counts, and there things are
the other way round: the gradient of k1 is 0 on average, that of k3 is the gradient of another divergence, that of k2
is the gradient of the KL at each token (Tang and Munos, "On a few pitfalls in KL divergence gradient estimation for
RL", 2025). It leaves out what a token does to the KL of later ones; only a penalty in the rewards counts that.

k3 grows exponentially where the actor falls below the reference, and is infinite in fp32 from a difference of -89 on.
The difference is therefore held at -10 or above in k3: it is at most exp(10) - 11 = 22,015, and as a loss has no
gradient beyond. Other implementations bound it likewise (verl and OpenRLHF: k3 itself at 10).
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
        logprobs: (B, R) of the sampled tokens under the actor.
        ref_logprobs: (B, R) of the same tokens under the reference.
    """
    difference = logprobs - ref_logprobs
    bounded = difference.clamp(min=_LEAST_DIFFERENCE)
    return KL(k1=difference, k2=difference.square() / 2, k3=(-bounded).exp() - 1 + bounded)


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(actor || reference) over the whole vocabulary at each position: no estimate.

    Args:
        logits: (B, R, V) of the actor, divided by the temperature.
        ref_logits: (B, R, V) of the reference, likewise.

    Returns:
        (B, R), in nats.
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
"""Per-token penalties (B, R) of log-probs and the reference's."""

KL_IN_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k2": _k2, "k3": _k3, "k3+": _k3_plus}
"""Per-token losses (B, R). `k3+` has the value of k3 and the gradient of k2; k1 is left out, since it has none."""


def adaptive_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: float, num_episodes: int) -> float:
    """Moves the weight of the KL penalty towards a target KL.

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section 2.2: the error is
    the relative distance to the target, clipped to ±0.2.

    Args:
        kl_coef: Weight in this iteration.
        kl: Measured KL, in nats a response.
        target: KL to keep, in nats a response.
        horizon: Episodes over which the weight adapts; the smaller, the faster.
        num_episodes: Responses sampled in this iteration.

    Returns:
        The weight for the next iteration.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)
