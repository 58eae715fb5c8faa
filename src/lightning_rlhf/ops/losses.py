"""Losses, and the registry of policy losses. To add a policy loss, decorate a function with `policy_loss`.

Each loss is a weighted sum over tokens. The weights come from an aggregation, or are one number for all tokens.

Shapes: B rows, R response tokens. Masks are True on the tokens that count.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_rlhf.ops.masked import masked_mean, masked_sum

# This bound keeps exp() finite. It is far outside of any clip range.
_MAX_LOG_RATIO = 20.0


def token_log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Computes the log of the probability ratio of each token (PPO).

    Args:
        logprobs: (B, R) log-probs under the current actor.
        old_logprobs: (B, R) log-probs under the actor that sampled.
        mask: (B, R) response mask.

    Returns:
        (B, R) log-ratios, 0 outside the mask. They are masked before any exp(), so the ratio of padding is 1.
    """
    return torch.where(mask, logprobs - old_logprobs, 0).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def sequence_log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Averages the log-ratios of the tokens of each response, and repeats the mean at each of its tokens.

    Since all tokens of a response have the same ratio, a response is clipped as a whole.
    Source: Zheng et al., "Group Sequence Policy Optimization" (2025), equation 7.

    Args:
        logprobs: (B, R) log-probs under the current actor.
        old_logprobs: (B, R) log-probs under the actor that sampled.
        mask: (B, R) response mask.

    Returns:
        (B, R) log-ratios, 0 outside the mask.
    """
    mean = masked_mean(token_log_ratio(logprobs, old_logprobs, mask), mask, dim=1)
    return torch.where(mask, mean[:, None], 0)


class PolicyBatch(NamedTuple):
    """The input of a policy loss."""

    logprobs: Tensor
    """(B, R) log-probs under the current actor."""
    old_logprobs: Tensor
    """(B, R) log-probs under the actor that sampled."""
    advantages: Tensor
    """(B, R) advantages."""
    mask: Tensor
    """(B, R) response mask."""


class TokenLosses(NamedTuple):
    """The output of a policy loss, which an aggregation combines into one loss."""

    losses: Tensor
    """(B, R) losses of tokens."""
    log_ratio: Tensor
    """(B, R) log of the probability ratio that the loss uses."""
    clipped: Tensor
    """(B, R) bool: True if the ratio is clipped, so that the token has no gradient."""


PolicyLossFunction = Callable[..., TokenLosses]
"""Takes a `PolicyBatch`; its keyword-only parameters are its settings."""

POLICY_LOSSES: dict[str, PolicyLossFunction] = {}
"""Policy losses by name."""


def policy_loss(name: str) -> Callable[[PolicyLossFunction], PolicyLossFunction]:
    """Registers a function as a policy loss."""

    def register(function: PolicyLossFunction) -> PolicyLossFunction:
        POLICY_LOSSES[name] = function
        return function

    return register


def _surrogate(log_ratio: Tensor, advantages: Tensor, clip_range: float, clip_range_high: float | None) -> TokenLosses:
    """Computes the clipped objective of each token from the given log-ratios."""
    ratio = log_ratio.exp()
    held = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    losses = torch.maximum(-advantages * ratio, -advantages * held)
    return TokenLosses(losses, log_ratio, losses != -advantages * ratio)


@policy_loss("clipped")
def clipped(batch: PolicyBatch, *, clip_range: float, clip_range_high: float | None = None) -> TokenLosses:
    """Computes PPO's clipped surrogate objective from the ratio of each token.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7. A larger upper range is the
    "clip higher" of Yu et al., "DAPO" (2025).

    Args:
        batch: Log-probs and advantages.
        clip_range: The ratio is clipped to at least 1 - clip_range.
        clip_range_high: The ratio is clipped to at most 1 + clip_range_high; None stands for `clip_range`.
    """
    log_ratio = token_log_ratio(batch.logprobs, batch.old_logprobs, batch.mask)
    return _surrogate(log_ratio, batch.advantages, clip_range, clip_range_high)


@policy_loss("dual_clip")
def dual_clip(
    batch: PolicyBatch, *, clip_range: float, clip_range_high: float | None = None, dual_clip: float = 3.0
) -> TokenLosses:
    """Computes `clipped` with a bound on tokens of negative advantage, so that a very large ratio does not dominate.

    Source: Ye et al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning" (2020).

    Args:
        batch: Log-probs and advantages.
        clip_range: As in `clipped`.
        clip_range_high: As in `clipped`.
        dual_clip: Where the advantage is negative, the objective is at least `dual_clip` times the advantage. It must
            be above 1.

    Raises:
        ValueError: If `dual_clip` is not above 1.
    """
    if not dual_clip > 1:
        raise ValueError(f"dual_clip={dual_clip}: must be above 1")
    tokens = clipped(batch, clip_range=clip_range, clip_range_high=clip_range_high)
    bound = -batch.advantages * dual_clip
    bounded = (batch.advantages < 0) & (tokens.losses > bound)
    return TokenLosses(tokens.losses.where(~bounded, bound), tokens.log_ratio, tokens.clipped | bounded)


@policy_loss("gspo")
def gspo(batch: PolicyBatch, *, clip_range: float, clip_range_high: float | None = None) -> TokenLosses:
    """Computes `clipped` from the ratio of each response as a whole.

    Source: Zheng et al., "Group Sequence Policy Optimization" (2025), equation 5.

    Args:
        batch: Log-probs and advantages.
        clip_range: As in `clipped`; the paper's ranges are much narrower than those for tokens.
        clip_range_high: As in `clipped`.
    """
    log_ratio = sequence_log_ratio(batch.logprobs, batch.old_logprobs, batch.mask)
    return _surrogate(log_ratio, batch.advantages, clip_range, clip_range_high)


class PolicyLoss(NamedTuple):
    """The loss, and two measures of how far the actor has moved within this iteration; all are scalars."""

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def weighted_policy_loss(tokens: TokenLosses, mask: Tensor, weights: Tensor | float) -> PolicyLoss:
    """Computes the weighted sum of the losses of tokens.

    Args:
        tokens: The output of a policy loss.
        mask: (B, R) response mask.
        weights: (B, R) weights of the tokens, or one number for all tokens.
    """
    with torch.no_grad():
        clip_fraction = masked_mean(tokens.clipped.float(), mask)
        approx_kl = masked_mean(tokens.log_ratio.square() / 2, mask)
    return PolicyLoss(masked_sum(tokens.losses * weights, mask), clip_fraction, approx_kl)


class ValueLoss(NamedTuple):
    """The loss, and the share of values whose loss is clipped; both are scalars."""

    loss: Tensor
    clip_fraction: Tensor


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range_value: float,
    weights: Tensor | float,
) -> ValueLoss:
    """Takes half of the larger of the plain and the clipped squared error of each value.

    Source: PPO2 of OpenAI's baselines, which lm-human-preferences adopted.

    Args:
        values: (B, R) values of the current critic.
        old_values: (B, R) values of the critic when the responses were sampled.
        returns: (B, R) targets.
        mask: (B, R) response mask.
        clip_range_value: How far a value may move from its old value.
        weights: (B, R) weights of the tokens, or one number for all tokens.
    """
    # The mask is applied before squaring: the gradient of the square of NaN is NaN, even where the loss leaves it out.
    values, old_values, returns = (torch.where(mask, tensor, 0) for tensor in (values, old_values, returns))
    moves = values - old_values
    # Within the range the value itself is taken, because old + (value - old) may differ from it by rounding, and would
    # then count as clipped.
    inside = moves.abs() <= clip_range_value
    clipped = torch.where(inside, values, old_values + moves.clamp(-clip_range_value, clip_range_value))
    plain_error, clipped_error = (values - returns).square(), (clipped - returns).square()
    losses = torch.maximum(plain_error, clipped_error) / 2
    is_clipped = (clipped_error > plain_error).float()
    return ValueLoss(masked_sum(losses * weights, mask), masked_mean(is_clipped.detach(), mask))


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Computes the Bradley-Terry loss of each pair: -logsigmoid(chosen - rejected - margin).

    Source: Stiennon et al. (2020), equation 1; the margin is that of Llama 2 (Touvron et al., 2023, equation 2).

    Args:
        chosen: (B,) scores of the chosen responses.
        rejected: (B,) scores of the rejected responses.
        margin: Number or (B,) numbers by which the chosen score should exceed the rejected score.

    Returns:
        (B,) losses.
    """
    return -logsigmoid(chosen - rejected - margin)
