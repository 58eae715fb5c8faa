"""Log-probabilities and entropies of tokens.

Logits are the largest tensors of an update. They are therefore processed in chunks of a few positions, which the
backward pass computes again. Only the gradient of the logits becomes as large as the logits themselves.

Shapes: B rows, R response tokens, C response tokens of a chunk, V vocabulary.
"""

from collections.abc import Callable, Iterator
from math import ceil

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

_PARTS, _CHUNK = 16, 2**18
"""Number of chunks, and least number of logits in a chunk: chunks are small, but there are only a few calls."""


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Computes the log-probability of each token under the logits that predict it, in fp32.

    Args:
        logits: (B, R, V) logits, already divided by the sampling temperature; position r predicts token r.
        tokens: (B, R) token ids.

    Returns:
        (B, R) log-probs, in nats.
    """
    return _ByChunks.apply(_logprobs, logits, tokens)


def token_entropy(logits: Tensor) -> Tensor:
    """Computes the entropy of the distribution at each position, in fp32.

    Args:
        logits: (B, R, V) logits, already divided by the sampling temperature.

    Returns:
        (B, R) entropies, in nats.
    """
    return _ByChunks.apply(_entropy, logits)


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    flat = cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -flat.view_as(tokens)


def _entropy(logits: Tensor) -> Tensor:
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts each (B, R, …) tensor into chunks (B, C, …); the first tensor contains the logits."""
    num_rows, length, size = tensors[0].shape
    step = max(1, ceil(length / _PARTS), _CHUNK // max(1, num_rows * size))
    for start in range(0, max(1, length), step):
        yield tuple(tensor[:, start : start + step] for tensor in tensors)


class _Saved(torch.autograd.function.FunctionCtx):
    """What the forward pass leaves to the backward pass."""

    function: Callable[..., Tensor]
    saved_tensors: tuple[Tensor, ...]


class _ByChunks(torch.autograd.Function):
    """Applies a function of (B, C, V) logits and other tensors that returns (B, C) to all positions, in chunks."""

    @staticmethod
    def forward(ctx: "_Saved", function: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        """Returns the results of the function, (B, R)."""
        ctx.function = function
        ctx.save_for_backward(logits, *others)
        return torch.cat([function(*chunk) for chunk in _chunks(logits, *others)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: "_Saved", grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient of the logits, (B, R, V)."""
        logits, *others = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part, part_grad, part_logits, *rest in _chunks(result, grad, logits, *others):
            with torch.enable_grad():
                leaf = part_logits.detach().requires_grad_()
                part.copy_(torch.autograd.grad(ctx.function(leaf, *rest), leaf, part_grad)[0])
        return None, result, *(None for _ in others)
