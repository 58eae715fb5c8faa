"""Losses. Each returns elements or sums that the caller divides: by a count that ranks and accumulation share.

Shapes: B rows, R response tokens. Masks are True on the tokens that count.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_rlhf.ops.masked import masked_mean, masked_sum

# Keeps exp() finite, at a ratio far outside of any clip range.
_MAX_LOG_RATIO = 20.0


class PolicyLoss(NamedTuple):
    """Scalars: the loss, and two measures of how far the actor has moved within this iteration."""

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    num_tokens: Tensor | float,
) -> PolicyLoss:
    """Clipped surrogate objective, summed over tokens and divided by `num_tokens`.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7.

    Args:
        logprobs: (B, R) under the current actor.
        old_logprobs: (B, R) under the actor that sampled.
        advantages: (B, R).
        mask: (B, R) response mask.
        clip_range: The ratio is clipped to 1 ± this.
        num_tokens: What to divide by: the tokens of the whole minibatch, not of this part of it.
    """
    # Masked before exp(), so that what lies under the padding is a ratio of 1.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    with torch.no_grad():
        is_clipped = (-advantages * clipped > -advantages * ratio).float()
        approx_kl = masked_mean(log_ratio.square() / 2, mask)
    return PolicyLoss(masked_sum(losses, mask) / num_tokens, masked_mean(is_clipped, mask), approx_kl)


class ValueLoss(NamedTuple):
    """Scalars: the loss, and the share of values that the clip held back."""

    loss: Tensor
    clip_fraction: Tensor


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range_value: float,
    num_tokens: Tensor | float,
) -> ValueLoss:
    """Half of the larger of the plain and the clipped squared error, summed and divided by `num_tokens`.

    Source: OpenAI baselines' PPO2, as kept by lm-human-preferences.

    Args:
        values: (B, R) under the current critic.
        old_values: (B, R) when the responses were sampled.
        returns: (B, R) targets.
        mask: (B, R) response mask.
        clip_range_value: How far a value may move from the old one.
        num_tokens: What to divide by: the tokens of the whole minibatch, not of this part of it.
    """
    # Masked before squaring: the gradient of the square of a NaN is NaN, even where the loss leaves it out.
    values, old_values, returns = (torch.where(mask, tensor, 0) for tensor in (values, old_values, returns))
    clipped = old_values + (values - old_values).clamp(-clip_range_value, clip_range_value)
    plain_error, clipped_error = (values - returns).square(), (clipped - returns).square()
    losses = torch.maximum(plain_error, clipped_error) / 2
    is_clipped = (clipped_error > plain_error).float()
    return ValueLoss(masked_sum(losses, mask) / num_tokens, masked_mean(is_clipped.detach(), mask))


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Bradley-Terry loss of each pair: -logsigmoid(chosen - rejected - margin).

    Source: Stiennon et al. (2020), equation 1; the margin is Llama 2's (Touvron et al., 2023, equation 2).

    Args:
        chosen: (B,) scores of the preferred responses.
        rejected: (B,) scores of the others.
        margin: (B,) or a number: by how much the chosen one should win.

    Returns:
        (B,).
    """
    return -logsigmoid(chosen - rejected - margin)
