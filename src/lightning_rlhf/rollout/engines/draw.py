"""Draws tokens from logits with given random numbers.

A token is found by inverting the cumulative distribution function, which is summed in fp64. Each of 128,000 tokens is
therefore drawn with its probability to within 10⁻¹¹.

Shapes: B rows, V vocabulary.
"""

import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lightning_rlhf.rollout.sampling import Sampling


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws a token from each row of logits (B, V), using the random numbers (B,) in (0, 1].

    Returns:
        Tokens, and their log-probs in the distribution that they are drawn from, in nats and fp32, both (B,). Where
        logits are NaN, the log-prob is NaN as well, and the token is meaningless.
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
    """Finds the tokens at which the cumulative distribution function reaches the given numbers.

    In fp32, the sums over a large vocabulary would lose the smallest probabilities. An exponential race would be exact
    as well, but needs a random number for each token of the vocabulary: with 128,000 tokens it takes four times as long
    on a CPU.

    Args:
        probs: (B, V) in fp32, which need not add up to 1 exactly.
        uniforms: (B,) numbers in (0, 1].

    Returns:
        (B,) tokens, on the device of `probs`.
    """
    cumulative = probs.to(uniforms.device).cumsum(-1, dtype=torch.float64)
    # The numbers are above 0 and are scaled by the last entry, so a token of probability 0 is never found.
    found = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:])
    # NaN is never found, and the search returns an index beyond the last token. That index would raise an error on a
    # CPU, and abort the process on a GPU.
    return found[:, 0].clamp(max=probs.shape[-1] - 1).to(probs.device)
