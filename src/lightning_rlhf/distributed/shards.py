"""Models that torch's `fully_shard` divides among the processes, each model by itself and block by block."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.fsdp as torch_fsdp
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_rlhf.distributed.blocks import blocks

Part = Any
"""A module that `fully_shard` has divided: it is an FSDPModule beside its own class, which no type can say."""


def shard(net: nn.Module, mesh: DeviceMesh, **settings: Any) -> Part:
    """Divides a model, whose calls then gather it block by block.

    Args:
        net: A whole model on any device; one block at a time is moved to the device of the mesh.
        mesh: A mesh of all processes.
        **settings: Other settings of `fully_shard`.
    """
    for block in blocks(net):
        torch_fsdp.fully_shard(block, mesh=mesh, reshard_after_forward=True, **settings)
    return torch_fsdp.fully_shard(net, mesh=mesh, reshard_after_forward=False, **settings)


def parts(*nets: nn.Module) -> list[Part]:
    """Lists the parts of models that are each gathered as a whole."""
    return [part for net in nets for part in net.modules() if isinstance(part, torch_fsdp.FSDPModule)]


@contextmanager
def whole_to_read(parts: list[Part], roots: list[Part]) -> Iterator[None]:
    """Gathers parts of models, and keeps them whole through calls."""
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part not in roots, recurse=False)
            part.reshard()


@contextmanager
def whole_to_write(parts: list[Part]) -> Iterator[None]:
    """Replaces shards by whole weights for a while; the shards take over what was written, and calls gather nothing."""
    hooks = [(part, part._forward_pre_hooks, part._forward_hooks) for part in parts]
    for part in parts:
        part.reshard()
        part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
    # In the same order on all ranks, which gather together.
    owners = dict.fromkeys(owner for part in parts for owner in part.modules())
    places = [
        (owner, name, spread) for owner in owners for name, spread in owner._parameters.items() if spread is not None
    ]
    weights = {spread: nn.Parameter(spread.full_tensor(), spread.requires_grad) for _, _, spread in places}
    for owner, name, spread in places:
        setattr(owner, name, weights[spread])
    try:
        yield
        for spread, weight in weights.items():
            with torch.no_grad():
                spread.copy_(distribute_tensor(weight.detach(), spread.device_mesh, spread.placements))
    finally:
        for owner, name, spread in places:
            setattr(owner, name, spread)
        for part, before, after in hooks:
            part._forward_pre_hooks, part._forward_hooks = before, after


def spread_like(weight: Tensor, place: Tensor | None) -> Tensor:
    """Returns this process's share of a weight if the tensor that it is for is divided; otherwise the weight itself.

    Args:
        weight: A weight that is whole or divided already.
        place: The tensor that it is to be copied into.
    """
    if not isinstance(place, DTensor) or isinstance(weight, DTensor):
        return weight
    return distribute_tensor(weight.to(place.device, place.dtype), place.device_mesh, place.placements)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Gathers a tensor if it is divided among the processes, which all call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def no_inference_mode(trainer: Trainer) -> None:
    """Turns off inference mode in evaluation, because training cannot use gathered weights that were allocated in it.

    Lightning itself does so for one of its strategies (loops/utilities.py, `_no_grad_context`).
    """
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        loop.inference_mode = False
