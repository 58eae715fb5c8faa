"""Draws tokens from logits with given random numbers.

A token is found by inverting the cumulative distribution function, which is summed in fp64. Each of 128,000 tokens is
therefore drawn with its probability to within 10⁻¹¹.

Shapes: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lightning_rlhf.rollout.sampling import Sampling


class Draws(NamedTuple):
    """A token for each row."""

    ids: Tensor
    """(B,) int64."""
    logprobs: Tensor
    """(B,) log-probs in the distribution that the tokens are drawn from, in nats and fp32.

    Where logits are NaN, the log-prob is NaN as well, and the token is meaningless.
    """
    entropies: Tensor | None = None
    """(B,) entropies of this distribution, in nats and fp32; None if they were not asked for."""

    def fetched(self) -> list[list[float]]:
        """Fetches the B ids, each with its other numbers, from the device at once; fp32 holds ids exactly."""
        return torch.stack([self.ids.float(), *(numbers for numbers in self[1:] if numbers is not None)], 1).tolist()


def draw(
    logits: Tensor, uniforms: Tensor, sampling: Sampling, seen: Tensor | None = None, *, entropy: bool = False
) -> Draws:
    """Draws a token from each row of logits (B, V), using the random numbers (B,) in (0, 1].

    The vocabulary is sorted only for `top_p`.

    Args:
        logits: (B, V).
        uniforms: (B,).
        sampling: Settings of the sampling distribution.
        seen: (B, V) bool, True at the tokens to penalise; needed if there is a repetition penalty (see `seen_tokens`).
        entropy: Whether to compute entropies too.
    """
    logits = logits.float()
    if seen is not None:
        factor = torch.where(logits > 0, 1 / sampling.repetition_penalty, sampling.repetition_penalty)
        logits = torch.where(seen, logits * factor, logits)
    if sampling.temperature == 0:
        largest, tokens = logits.max(-1)
        certain = torch.zeros_like(largest).masked_fill(~largest.isfinite(), torch.nan)
        return Draws(tokens, certain, certain if entropy else None)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    if sampling.min_p:
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    probs = logits.softmax(-1)
    drawn = invert(probs, uniforms)[:, None]
    logprobs = probs.gather(1, drawn)[:, 0].log()
    if not entropy:
        return Draws(drawn[:, 0], logprobs)
    # H = log Z - E[z], where log Z is z - log p of the drawn token. A token that was cut off has the logit -inf.
    finite = logits if sampling.is_whole else logits.masked_fill(probs == 0, 0)
    normalizers = logits.gather(1, drawn)[:, 0] - logprobs
    return Draws(drawn[:, 0], logprobs, normalizers - probs.mul_(finite).sum(-1))


def seen_tokens(ids: Sequence[Sequence[int]], like: Tensor, sampling: Sampling) -> Tensor | None:
    """Marks the tokens that have occurred, if the distribution penalises them.

    Args:
        ids: B lists of tokens.
        like: A tensor on the device of the result whose last dimension is the vocabulary.
        sampling: Settings of the sampling distribution.

    Returns:
        (B, V) bool; None if there is no repetition penalty.
    """
    if sampling.repetition_penalty == 1:
        return None
    seen = torch.zeros(len(ids), like.shape[-1], dtype=torch.bool)
    for row, tokens in zip(seen, ids, strict=True):
        row[list(tokens)] = True
    return seen.to(like.device)


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
