"""Estimators of KL(actor || reference) from tokens that the actor sampled, and the controller of its weight.

Source: J. Schulman, "Approximating KL Divergence" (2020). With d = log p_actor - log p_reference:
k1 = d is unbiased; k2 = d²/2 is biased with low variance; k3 = exp(-d) - 1 + d is unbiased and never negative.
"""

from typing import NamedTuple

from torch import Tensor


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
    return KL(k1=difference, k2=difference.square() / 2, k3=(-difference).exp() - 1 + difference)


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
