"""Log-probabilities and entropies of tokens.

Logits are the largest tensors of an update, so only a few positions are gone through at a time, and again for the
backward pass: nothing else becomes as large but the gradient of the logits.

Shapes: B rows, R response tokens, C of them that are gone through at a time, V vocabulary.
"""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

_PARTS, _CHUNK = 16, 2**18
"""Logits are gone through in so many parts, of at least so many numbers: small, and still few calls."""


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token under the logits that predict it, in fp32.

    Args:
        logits: (B, R, V), row r predicts token r; already divided by the sampling temperature.
        tokens: (B, R) ids.

    Returns:
        (B, R), in nats.
    """
    return _ByChunks.apply(_logprobs, logits, tokens)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution at each position, in fp32.

    Args:
        logits: (B, R, V), already divided by the sampling temperature.

    Returns:
        (B, R), in nats.
    """
    return _ByChunks.apply(_entropy, logits)


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    flat = cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -flat.view_as(tokens)


def _entropy(logits: Tensor) -> Tensor:
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """(B, C, …) of each (B, R, …) tensor; the first are logits."""
    num_rows, length, size = tensors[0].shape
    step = max(1, ceil(length / _PARTS), _CHUNK // max(1, num_rows * size))
    for start in range(0, max(1, length), step):
        yield tuple(tensor[:, start : start + step] for tensor in tensors)


class _ByChunks(torch.autograd.Function):
    """A function of (B, C, V) logits and other tensors that gives (B, C), for all positions."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        """(B, R)."""
        ctx.function = function
        ctx.save_for_backward(logits, *others)
        return torch.cat([function(*chunk) for chunk in _chunks(logits, *others)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of the logits, (B, R, V)."""
        logits, *others = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part, part_grad, part_logits, *rest in _chunks(result, grad, logits, *others):
            with torch.enable_grad():
                leaf = part_logits.detach().requires_grad_()
                part.copy_(torch.autograd.grad(ctx.function(leaf, *rest), leaf, part_grad)[0])
        return None, result, *(None for _ in others)
