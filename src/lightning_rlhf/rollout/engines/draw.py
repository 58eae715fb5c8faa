"""Draws tokens from logits by given random numbers.

Tokens are drawn by the inverse of the distribution function, whose sums are in fp64: each of 128,000 tokens is drawn
with its probability to within 10⁻¹¹.

Shapes: B rows, V vocabulary.
"""

import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lightning_rlhf.rollout.sampling import Sampling


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws a token from each row of logits (B, V), by the numbers (B,) in (0, 1].

    Returns:
        Tokens, and their log-probs in the distribution that they are drawn from, in nats and fp32, both (B,). Where
        logits are NaN the log-prob is NaN as well, and the token means nothing.
    """
    if sampling.temperature == 0:
        largest, tokens = logits.float().max(-1)
        return tokens, torch.zeros_like(largest).masked_fill(~largest.isfinite(), torch.nan)
    logits = logits.float() / sampling.temperature
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    probs = logits.softmax(-1)
    drawn = invert(probs, uniforms)[:, None]
    return drawn[:, 0], probs.gather(1, drawn)[:, 0].log()


def invert(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Finds the tokens at which the distribution function reaches given numbers.

    In fp32, the sums of a large vocabulary would swallow the smallest probabilities. An exponential race would be exact
    as well, but takes a random number for each token of the vocabulary: four times as long for 128,000 on a CPU.

    Args:
        probs: (B, V) in fp32, which need not add up to 1 exactly.
        uniforms: (B,) numbers in (0, 1].

    Returns:
        (B,) tokens, on the device of `probs`.
    """
    cumulative = probs.to(uniforms.device).cumsum(-1, dtype=torch.float64)
    # The numbers are above 0 and the total is the last entry: so a token of probability 0 is never found.
    found = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:])
    # NaN is not found at all: the place behind the last token would be an error of indices, or end a GPU's process.
    return found[:, 0].clamp(max=probs.shape[-1] - 1).to(probs.device)
