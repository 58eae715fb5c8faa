"""Shapes of weights, which a strategy that shards or a quantized layer may change."""

from torch import Size, Tensor, nn
from torch.distributed.tensor import DTensor


def note_shapes(module: nn.Module) -> None:
    """Notes the shape of each weight on the weight itself, before a strategy flattens it."""
    for parameter in module.parameters():
        parameter.whole_shape = parameter.shape  # type: ignore[attr-defined]


def whole_shape(parameter: nn.Parameter) -> Size:
    """The shape that a weight has where nobody shards it, and bitsandbytes packs no two numbers into one."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return Size(packed.shape)
    return getattr(parameter, "whole_shape", parameter.shape)


def is_divided(weight: Tensor) -> bool:
    """Whether this process holds a part of a weight that looks like the whole (a DTensor)."""
    return isinstance(weight, DTensor)


def lift_scalars(module: nn.Module) -> None:
    """Gives weights of no dimension, which cannot be divided, one of size 1, which computes alike."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim == 0:
                setattr(owner, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
