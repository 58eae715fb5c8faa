"""Truncated importance sampling: corrects for an engine whose log-probs are not exactly those of the update.

Such an engine computes with other kernels, or in another dtype, so it draws from a slightly different distribution.
Each loss is therefore multiplied by the ratio of the two probabilities, up to a ceiling that bounds the variance.
Source: Ionides, "Truncated Importance Sampling" (2008); for engines, Yao et al., "Your Efficient RL Framework Secretly
Brings You Off-Policy RL Training" (2025).

Shapes: B rows, R response tokens. Masks are True on the tokens that count.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.ops.losses import token_log_ratio
from lightning_rlhf.ops.masked import masked_mean, masked_sum

LEVELS = ("token", "sequence")
"""What has a ratio of its own: each token, or each response as a whole."""

# This bound keeps exp() of a sum over tokens finite, as that of `token_log_ratio` does for a token.
_MAX_LOG_RATIO = 20.0


class ImportanceWeights(NamedTuple):
    """Factors of the losses of tokens, and how far they are from 1."""

    weights: Tensor
    """(B, R) truncated ratios without gradients; 1 outside the mask."""
    mean: Tensor
    """Mean of the ratios over the tokens, before they are truncated; a scalar."""
    max: Tensor
    """Largest of the ratios before they are truncated, 0 if no token counts; a scalar."""
    clipped: Tensor
    """Share of the tokens whose ratio is truncated; a scalar."""


@torch.no_grad()
def truncated_importance(
    logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, *, level: str, ceiling: float
) -> ImportanceWeights:
    """Computes the ratios of the actor that scored the responses to the engine that drew them.

    Args:
        logprobs: (B, R) log-probs under the actor before the update, in nats.
        sampler_logprobs: (B, R) log-probs in the distribution that the engine drew from, in nats.
        mask: (B, R) response mask.
        level: `token` for the ratio of each token; `sequence` for the product of the ratios of a response, which each
            of its tokens gets.
        ceiling: The largest factor.
    """
    log_ratio = token_log_ratio(logprobs, sampler_logprobs, mask)
    if level == "sequence":
        whole = masked_sum(log_ratio, mask, dim=1).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        log_ratio = torch.where(mask, whole[:, None], 0)
    ratio = log_ratio.exp()
    clipped = masked_mean((ratio > ceiling).float(), mask)
    # Selecting the ratios by the mask would wait for the device, because their number would have to be known.
    largest = ratio.masked_fill(~mask, 0).amax()
    return ImportanceWeights(ratio.clamp(max=ceiling), masked_mean(ratio, mask), largest, clipped)
