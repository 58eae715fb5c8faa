"""Aggregations, which turn the losses of tokens into the loss of a minibatch.

An aggregation gives each token a weight, and the loss is the weighted sum. Weights are divided by counts of the whole
minibatch, over all ranks and accumulated parts, so the loss depends on neither the ranks nor the parts.

Shapes: B rows, R response tokens. Masks are True on the tokens that count.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class MinibatchSize(NamedTuple):
    """Size of a whole minibatch, over all ranks and accumulated parts."""

    num_sequences: int
    num_tokens: int
    """Number of response tokens."""
    max_length: int
    """Length limit of a response, in tokens."""


Aggregation = Callable[[Tensor, MinibatchSize], Tensor]


def token_mean(mask: Tensor, size: MinibatchSize) -> Tensor:
    """Weights all tokens equally, so long responses count more (PPO; DAPO, Yu et al., 2025, equation 12).

    Args:
        mask: (B, R) response mask.
        size: Size of the whole minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / size.num_tokens


def sequence_mean(mask: Tensor, size: MinibatchSize) -> Tensor:
    """Weights all responses equally: the mean over tokens, then over responses (GRPO, Shao et al., 2024).

    Args:
        mask: (B, R) response mask.
        size: Size of the whole minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / size.num_sequences


def fixed_length(mask: Tensor, size: MinibatchSize) -> Tensor:
    """Divides the sum over tokens by the length limit, so that the length of a response introduces no bias.

    Source: Liu et al., "Understanding R1-Zero-Like Training" (2025), Dr. GRPO.

    Args:
        mask: (B, R) response mask.
        size: Size of the whole minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / (size.num_sequences * size.max_length)


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}
