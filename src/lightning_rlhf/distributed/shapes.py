"""Shapes of whole weights. A strategy that divides weights, or a quantized layer, changes the shape of a tensor."""

from torch import Size, Tensor, nn
from torch.distributed.tensor import DTensor


def note_shapes(module: nn.Module) -> None:
    """Stores the shape of each weight as an attribute of it, before a strategy flattens the weight."""
    for parameter in module.parameters():
        parameter.whole_shape = parameter.shape  # type: ignore[attr-defined]


def whole_shape(parameter: nn.Parameter) -> Size:
    """Returns the shape that a weight has before it is divided, or packed by bitsandbytes."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return Size(packed.shape)
    return getattr(parameter, "whole_shape", parameter.shape)


def is_divided(weight: Tensor) -> bool:
    """Whether a weight looks whole but is a DTensor, of which this process holds a part."""
    return isinstance(weight, DTensor)


def lift_scalars(module: nn.Module) -> None:
    """Reshapes scalar weights, which cannot be divided, into vectors of one number, which compute the same."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.ndim == 0:
                setattr(owner, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))
