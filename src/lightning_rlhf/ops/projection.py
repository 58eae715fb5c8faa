"""Log-probs and entropies of tokens straight from hidden states: a head over the vocabulary without all of its logits.

Logits would be the largest tensors of an update. Here a chunk of positions at a time gets its logits, and the backward
pass computes them again, unless all of them are a single chunk, which is kept.

Shapes: N positions, C positions of a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import handle_torch_function, has_torch_function

from lightning_rlhf.ops.kl import exact_kl

_CHUNK, _ROWS = 2**24, 256
"""A chunk has about this many logits (64 MiB in fp32), but at least `_ROWS` positions, because products of fewer rows
are slow."""
_CACHED, _CACHED_ROWS = 2**18, 32
"""A processor keeps about this many logits (1 MiB in fp32) in its cache, and works on at least `_CACHED_ROWS` positions
at a time."""


class LogitForm(NamedTuple):
    """What becomes of the products of hidden states and head before the softmax.

    Attributes:
        temperature: The sampling temperature, which divides the logits.
        scale: Factor of the products (Cohere, Granite).
        softcap: Bound c of c tanh(x / c), which replaces x (Gemma 2); None for no bound.
    """

    temperature: float = 1.0
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, products: Tensor) -> Tensor:
        """Turns products into logits in fp32, divided by the temperature."""
        logits = products.float()
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        # A division by 1 would only create a second tensor of this size.
        return logits if self.temperature == 1 else logits / self.temperature

    def to_products_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turns the gradient of logits, in place, into the gradient of the products that they come from."""
        if self.softcap is not None:
            # d c tanh(x / c) / dx = 1 - tanh²(x / c)
            gradient *= 1 - (logits * (self.temperature / self.softcap)).square()
        factor = self.scale / self.temperature
        return gradient if factor == 1 else gradient.mul_(factor)


def projected_stats(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, form: LogitForm, entropy: bool
) -> Tensor:
    """Computes the log-prob of each token, and the entropy of each distribution, under a linear head.

    Args:
        hidden: (N, D) hidden states that the head reads.
        weight: (V, D) weights of the head.
        bias: (V,) bias of the head; None if it has none.
        tokens: (N,) token ids.
        form: What becomes of the products before the softmax.
        entropy: Whether to compute entropies.

    Returns:
        (1, N) log-probs, or (2, N) log-probs and entropies, in nats and in fp32.
    """
    # A weight of a class of its own may have to be told before and after an operation that uses it.
    if has_torch_function((hidden, weight)):
        return handle_torch_function(projected_stats, (hidden, weight), hidden, weight, bias, tokens, form, entropy)
    dtype = dtype_of_products(weight)
    cast = [None if tensor is None else tensor.to(dtype) for tensor in (hidden, weight, bias)]
    return torch.stack(_Projected.apply(*cast, tokens, form, entropy))


def dtype_of_products(weight: Tensor) -> torch.dtype:
    """The dtype in which a head with these weights is applied."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class ChunkedLogits(NamedTuple):
    """Logits (N, V) that are computed when they are needed, a chunk of positions at a time."""

    of: Callable[[slice], Tensor]
    """Computes the (C, V) logits of some of the positions, in fp32."""
    num_positions: int
    vocab_size: int


@torch.no_grad()
def chunked_kl(logits: ChunkedLogits, ref_logits: ChunkedLogits) -> Tensor:
    """Computes KL(actor || reference) at each position, without gradients; see `exact_kl`.

    Args:
        logits: Logits of the actor at N positions.
        ref_logits: Logits of the reference at the same positions.

    Returns:
        (N,), in nats and in fp32.
    """
    rows = _chunks(logits.num_positions, logits.vocab_size)
    # Without positions, an empty chunk gives the empty result.
    return torch.cat([exact_kl(logits.of(some), ref_logits.of(some)) for some in [*rows] or [slice(0)]])


class _Saved(torch.autograd.function.FunctionCtx):
    """What the forward pass leaves to the backward pass."""

    form: LogitForm
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _Projected(torch.autograd.Function):
    """Log-probs and entropies with the gradients of hidden states, weight and bias."""

    @staticmethod
    def forward(
        ctx: "_Saved",
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        form: LogitForm,
        entropy: bool,
    ) -> tuple[Tensor, ...]:
        """Returns (N,) log-probs, and (N,) entropies if they are asked for."""
        logprobs, norms = hidden.new_empty(2, len(hidden), dtype=torch.float32)
        entropies = torch.empty_like(norms) if entropy else None
        logits = None
        for rows in _chunks(len(hidden), len(weight)):
            logits = form.logits(linear(hidden[rows], weight, bias))
            _logsumexp(logits, out=norms[rows])
            logprobs[rows] = logits.gather(1, tokens[rows, None])[:, 0] - norms[rows]
            if entropies is not None:
                probs = logits.softmax(-1)
                # A product of matrices or vectors would be cast to 16 bits under autocast.
                entropies[rows] = norms[rows] - probs.mul_(logits).sum(-1)
        kept = logits if logits is not None and len(logits) == len(hidden) else None
        ctx.save_for_backward(hidden, weight, bias, tokens, norms, entropies, kept)  # type: ignore[arg-type]
        ctx.form = form
        ctx.set_materialize_grads(False)
        return (logprobs,) if entropies is None else (logprobs, entropies)

    @staticmethod
    @once_differentiable
    def backward(ctx: "_Saved", grad: Tensor | None, entropy_grad: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Returns the gradients of hidden states, weight and bias."""
        hidden, weight, bias, tokens, norms, entropies, kept = ctx.saved_tensors
        grad = torch.zeros_like(norms) if grad is None else grad
        wanted = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = _Sum(weight) if wanted[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] else None
        for rows in _chunks(len(hidden), len(weight)):
            logits = ctx.form.logits(linear(hidden[rows], weight, bias)) if kept is None else kept
            # d log p_y / dz_j = [j = y] - p_j, and dH / dz_j = -p_j (log p_j + H)
            probs = logits.softmax(-1)
            if entropy_grad is None:
                change = probs.mul_(-grad[rows, None])
            else:
                change = logits - (norms[rows] - entropies[rows])[:, None]
                change.mul_(entropy_grad[rows, None]).add_(grad[rows, None]).mul_(probs).neg_()
            change.scatter_add_(1, tokens[rows, None], grad[rows, None])
            change = ctx.form.to_products_(change, logits)
            if grad_bias is not None:
                grad_bias += change.sum(0)
            change = change.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = change @ weight
            if grad_weight is not None:
                grad_weight.add(change, hidden[rows])
        total = None if grad_weight is None else grad_weight.total
        return grad_hidden, total, grad_bias if grad_bias is None else grad_bias.to(bias.dtype), None, None, None


def _logsumexp(logits: Tensor, out: Tensor) -> None:
    """Computes the logsumexp of (C, V) logits into (C,) numbers.

    The operation writes a copy of its argument, which a processor keeps in its cache if it is small.
    """
    some = max(_CACHED_ROWS, _CACHED // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for part, result in zip(logits.split(some), out.split(some), strict=True):
        torch.logsumexp(part, -1, out=result)


class _Sum:
    """The sum of the products of chunks, in fp32 if there are several of them."""

    def __init__(self, weight: Tensor) -> None:
        """Starts at zero, without memory for it."""
        self.weight = weight
        self._total: Tensor | None = None

    def add(self, change: Tensor, hidden: Tensor) -> None:
        """Adds the product of (C, V) and (C, D)."""
        if self._total is None:
            self._total = change.T @ hidden
        elif change.dtype == torch.float32:
            self._total.addmm_(change.T, hidden)
        else:
            self._total = self._total.float() + change.T @ hidden

    @property
    def total(self) -> Tensor:
        """The (V, D) sum in the dtype of the weight; zeros if there were no chunks."""
        return torch.zeros_like(self.weight) if self._total is None else self._total.to(self.weight.dtype)


def _chunks(num_positions: int, vocab_size: int) -> Iterator[slice]:
    step = max(_ROWS, _CHUNK // vocab_size)
    for start in range(0, num_positions, step):
        yield slice(start, start + step)
