"""Weights that are arranged once for many products, while a model samples on a CPU in fp32.

MKL brings a matrix into an order of its own before it multiplies. With few rows, that costs more than the product.
While a rollout samples, weights do not change, so their matrices are brought into this order once, and freed at the
end. `benchmarks/products.py` measures what it saves.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.fast_layers import FastConv1D, FastLinear
from lightning_rlhf.models.head import remains

SMALL = 2**16
"""The least number of elements of a matrix that is arranged."""
FEW, MANY = 5, 64
"""With fewer rows, or with as many, a product is not faster by it."""
CALLS, TRANSPOSED_CALLS = 16, 128
"""The least number of calls for which a matrix is arranged, and one that lies transposed.

To arrange a matrix costs as much as four or five calls save. A transposed one costs three times as much, because it is
turned first, and saves less: MKL multiplies with it nearly as fast as it lies.
"""
_HINT = 16
"""Number of rows for which MKL chooses the order. Products of any number of rows are right, and about as fast."""


def pays(rows: int, calls: int, *, transposed: bool) -> bool:
    """Whether it saves time to arrange a matrix on this machine's CPU.

    Args:
        rows: Number of rows of a product.
        calls: Number of products.
        transposed: Whether the matrix lies as (in, out), as in GPT-2, and not as (out, in).
    """
    # Builds of PyTorch without MKL do not have the operators.
    is_possible = torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
    return is_possible and rows >= FEW and calls >= (TRANSPOSED_CALLS if transposed else CALLS)


def arrangeable(net: nn.Module) -> list[nn.Linear | Conv1D]:
    """The layers of a model whose weights can be arranged: linear layers of its blocks, in fp32 and not small.

    A head is not among them. It costs more to arrange one than the few calls of a rollout save, and much memory.
    """
    kinds = (nn.Linear, FastLinear, Conv1D, FastConv1D)
    return [
        layer
        for block in blocks(net)
        # A compiler chooses the kernels itself.
        if block._compiled_call_impl is None
        for layer in block.modules()
        # Subclasses, such as quantized layers, have reasons of their own to compute differently.
        if isinstance(layer, nn.Linear | Conv1D) and type(layer) in kinds
        if layer.weight.dtype == torch.float32 and layer.weight.numel() >= SMALL
    ]


@contextmanager
def arranged(net: nn.Module, rows: int, calls: int) -> Iterator[None]:
    """Context in which a model multiplies few rows with arranged weights, if that pays.

    Weights must not change in this context. The layers keep their weights, and are as before at the end. Products that
    have gradients, of many rows, or under autocast are computed as before.

    Args:
        net: A model, whose weights are on any device.
        rows: Number of rows of a product.
        calls: Number of calls of the model.
    """
    with ExitStack() as stack:
        if not torch.is_autocast_enabled("cpu"):
            for layer in filter(_is_free, arrangeable(net)):
                if pays(rows, calls, transposed=isinstance(layer, Conv1D)):
                    vars(layer)["forward"] = forward_of(layer)
                    stack.callback(vars(layer).pop, "forward")
        yield


def _is_free(layer: nn.Linear | Conv1D) -> bool:
    """Whether the weights of a layer are here and stay, and nobody else has replaced its forward function."""
    weight = cast(nn.Parameter, layer.weight)
    return weight.device.type == "cpu" and remains(weight) and "forward" not in vars(layer)


@torch.no_grad()
def forward_of(layer: nn.Linear | Conv1D) -> Callable[[Tensor], Tensor]:
    """Arranges the weights of a layer, and returns a forward function that multiplies with them.

    Args:
        layer: A layer in fp32 on a CPU.

    Returns:
        A function of (…, in) rows that returns (…, out), as long as the weights of the layer stay the same.
    """
    multiply = torch.ops.mkl._mkl_linear.default
    weight, bias = layer.weight.detach(), layer.bias
    usual: Any = type(layer).forward
    whole = weight.t().contiguous() if isinstance(layer, Conv1D) else weight.contiguous()
    held = torch.ops.mkl._mkl_reorder_linear_weight(whole, _HINT)
    # The operator would read these numbers only if it were told another number of rows than there are.
    unread = weight.reshape(whole.shape)

    def forward(x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if not 0 < rows < MANY or torch.is_grad_enabled() or x.dtype != torch.float32:
            result: Tensor = usual(layer, x)
        else:
            result = multiply(x, held, unread, bias, rows)
        return result

    return forward
