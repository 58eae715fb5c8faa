"""How the losses of tokens become the loss of a minibatch.

An aggregation gives each token its weight; the loss is the weighted sum. Weights divide by counts of the whole
minibatch, over all ranks and accumulated parts, so that neither changes the loss.

Shapes: B rows, R response tokens. Masks are True on the tokens that count.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class MinibatchSize(NamedTuple):
    """Of a whole minibatch, whichever part of it is at hand."""

    num_sequences: int
    num_tokens: int
    """Response tokens."""
    max_length: int
    """Most tokens that a response may have."""


Aggregation = Callable[[Tensor, MinibatchSize], Tensor]


def token_mean(mask: Tensor, size: MinibatchSize) -> Tensor:
    """Every token counts the same, so long responses count more (PPO; DAPO, Yu et al., 2025, equation 12).

    Args:
        mask: (B, R) response mask.
        size: Of the minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / size.num_tokens


def sequence_mean(mask: Tensor, size: MinibatchSize) -> Tensor:
    """Every response counts the same: the mean over its tokens, then over responses (GRPO, Shao et al., 2024).

    Args:
        mask: (B, R) response mask.
        size: Of the minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / size.num_sequences


def fixed_length(mask: Tensor, size: MinibatchSize) -> Tensor:
    """The sum over tokens, divided by the length limit: the length of a response biases nothing.

    Source: Liu et al., "Understanding R1-Zero-Like Training" (2025), Dr. GRPO.

    Args:
        mask: (B, R) response mask.
        size: Of the minibatch.

    Returns:
        (B, R) weights, zero outside the mask.
    """
    return mask / (size.num_sequences * size.max_length)


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}
