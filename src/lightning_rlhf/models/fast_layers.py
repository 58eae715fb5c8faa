"""Layers of transformers that compute the same numbers, up to rounding, in less time.

Activations: several families write GELU with tanh as a formula of eight operators, each of which makes a tensor.
PyTorch has it as one kernel, forwards and backwards.

Products on CPUs in fp32: PyTorch passes a product of matrices to one library, but which of two libraries and of two
forms of the product is the fastest depends on the shapes, the processor and the threads. The rules in `way` are
constants, found by `benchmarks/products.py`; nothing is timed in a run, so that a run can be repeated.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

Way = Literal["default", "turned", "onednn"]
"""How a product is computed: by PyTorch's default library, by that library as the transpose of W xᵀ, or by oneDNN."""

LARGE = 2**19
"""The least number of elements, with AVX-512 for each thread, that make another way pay if there are few rows."""
_GELU_TANH = ("NewGELUActivation", "FastGELUActivation", "AccurateGELUActivation", "BloomGelu")
"""Classes of transformers that compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))), the last one with BLOOM."""


class Processor(NamedTuple):
    """What the rules need to know of the processor."""

    avx512: bool
    """Whether it has AVX-512, which oneDNN uses wherever it exists."""
    full_mkl: bool
    """Whether PyTorch's default library is MKL on a processor by Intel. On others, MKL runs kernels for AVX2."""


def _by_onednn(kind: Processor) -> bool:
    """Whether oneDNN has kernels for wider registers than the default library."""
    return kind.avx512 and not kind.full_mkl


@cache
def processor() -> Processor:
    """The processor of this machine."""
    mkl, onednn = torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available()
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    info = Path("/proc/cpuinfo")
    intel = not info.is_file() or "GenuineIntel" in info.read_text(encoding="utf-8", errors="replace")
    return Processor(avx512=capable and onednn, full_mkl=intel or not mkl)


def way(kind: Processor, threads: int, rows: int, weights: int, stride: int, *, transposed: bool, learns: bool) -> Way:
    """Chooses how to multiply `rows` rows with a matrix.

    Args:
        kind: The processor.
        threads: Number of threads that compute the product.
        rows: Number of rows.
        weights: Number of elements of the matrix.
        stride: Length of a row of the matrix as it lies in memory.
        transposed: Whether the matrix lies as (in, out), as in GPT-2, and not as (out, in), as in `nn.Linear`.
        learns: Whether the product has gradients.
    """
    if rows >= 64 and _by_onednn(kind):
        # Rows that lie whole pages apart share few places in a cache, and oneDNN reads a transposed matrix by columns.
        collides = stride > 1024 and stride % 1024 == 0 and weights // stride >= 512
        return "default" if transposed and collides else "onednn"
    if 5 <= rows <= 32 and not transposed and not learns:
        # MKL copies a large matrix before it multiplies few rows with it; oneDNN reads the matrix as it lies.
        if kind.avx512:
            return "onednn" if weights >= LARGE * threads else "default"
        return "turned" if weights >= LARGE else "default"
    return "default"


def choose(rows: int, matrix: Tensor, *, transposed: bool, learns: bool) -> Way:
    """Chooses how to multiply rows with a matrix on this machine; see `way`."""
    threads, stride = torch.get_num_threads(), matrix.shape[1]
    return way(processor(), threads, rows, matrix.numel(), stride, transposed=transposed, learns=learns)


def multiply(x: Tensor, matrix: Tensor, *, transposed: bool, learns: bool) -> Tensor:
    """Multiplies rows with a matrix of weights, in the way that `choose` says.

    Args:
        x: (N, in) rows in fp32 on a CPU.
        matrix: (out, in), or (in, out) if `transposed`.
        transposed: See `matrix`.
        learns: Whether the product has gradients.

    Returns:
        (N, out).
    """
    weight = matrix.t() if transposed else matrix
    chosen = choose(len(x), matrix, transposed=transposed, learns=learns)
    if chosen == "onednn":
        return by_onednn(x, weight)
    return turned(x, weight) if chosen == "turned" else functional.linear(x, weight)


def by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    """Computes x Wᵀ with oneDNN, through the operator that torch.compile uses; it has no gradient of its own."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return result


def turned(x: Tensor, weight: Tensor) -> Tensor:
    """Computes x Wᵀ as the transpose of W xᵀ."""
    return (weight @ x.t()).t().contiguous()


class _Product(torch.autograd.Function):
    """The product of rows and weights, whose gradients are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        """Computes (N, out) from (N, in)."""
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        return multiply(x, weight, transposed=transposed, learns=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Computes the gradients of x, (N, in), and of the weights."""
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = multiply(grad, weight, transposed=not ctx.transposed, learns=True)
        if ctx.needs_input_grad[1]:
            # The rows are the outputs of the layer, or its inputs, and the matrix is transposed.
            left, right = (x, grad) if ctx.transposed else (grad, x)
            grad_weight = multiply(left.t(), right, transposed=True, learns=True)
        return grad_x, grad_weight, None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    """Computes x Wᵀ + b, as `nn.functional.linear` does, or x W + b if the weights are transposed.

    Args:
        x: (…, in).
        weight: (out, in), or (in, out) if `transposed`.
        bias: (out,), if there is one.
        transposed: See `weight`.

    Returns:
        (…, out).
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    num_rows = x.numel() // max(1, x.shape[-1])
    if not _is_plain(x, weight) or choose(num_rows, weight, transposed=transposed, learns=learns) == "default":
        return _as_usual(x, weight, bias, transposed=transposed)
    rows = x.reshape(num_rows, x.shape[-1])
    if learns:
        out: Tensor = _Product.apply(rows, weight, transposed)
    else:
        out = multiply(rows, weight, transposed=transposed, learns=False)
    return (out if bias is None else out + bias).view(*x.shape[:-1], out.shape[1])


def _as_usual(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    """Computes what `product` does with the operators of the layers of PyTorch and transformers.

    These keep the parameter for the backward pass and not a view of its numbers, which would stay in memory after a
    strategy that divides weights has taken them back. Some replace `functional.linear` for this purpose.
    """
    if not transposed:
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
    return out.view(*x.shape[:-1], weight.shape[1])


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether nothing but this module decides how two tensors are multiplied.

    Otherwise a strategy has divided the tensors among processes, they are simulated, they are on another device or of
    another dtype, autocast would cast them, or a compiler chooses the kernels.
    """
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in (x, weight))
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class FastLinear(nn.Linear):
    """A linear layer whose product is computed in the fastest way."""

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return product(input, self.weight, self.bias, transposed=False)


class FastConv1D(Conv1D):
    """A linear layer of GPT-2 whose product is computed in the fastest way."""

    def forward(self, x: Tensor) -> Tensor:
        """See transformers' `Conv1D`."""
        return product(x, self.weight, self.bias, transposed=True)


def speed_up(net: nn.Module) -> None:
    """Makes the layers of a model compute in the fastest way; names, weights and the kinds of layers stay.

    Args:
        net: A model with or without adapters, changed in place. Layers of other kinds, such as quantized ones, stay as
            they are.
    """
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            # Subclasses of linear layers have reasons of their own to compute differently.
            if type(child).__name__ in _GELU_TANH:
                setattr(parent, name, ACT2FN["gelu_pytorch_tanh"].train(child.training))
            elif type(child) is nn.Linear and (
                _by_onednn(processor()) or child.in_features * child.out_features >= LARGE
            ):
                child.__class__ = FastLinear
            elif type(child) is Conv1D and _by_onednn(processor()):
                child.__class__ = FastConv1D
