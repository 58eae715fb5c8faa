"""Nets that torch's `fully_shard` has spread over the processes, each by itself and block by block."""

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
"""A module with shards: of torch's class FSDPModule as well as of its own."""


def shard(net: nn.Module, mesh: DeviceMesh, **settings: Any) -> Part:
    """Spreads a net, whose call then gathers it block by block.

    Args:
        net: Whole, on any device; a block at a time is moved to that of the mesh.
        mesh: Of all processes.
        **settings: Others of `fully_shard`.
    """
    for block in blocks(net):
        torch_fsdp.fully_shard(block, mesh=mesh, reshard_after_forward=True, **settings)
    return torch_fsdp.fully_shard(net, mesh=mesh, reshard_after_forward=False, **settings)


def parts(*nets: nn.Module) -> list[Part]:
    """What is gathered as one, in the given nets."""
    return [part for net in nets for part in net.modules() if isinstance(part, torch_fsdp.FSDPModule)]


@contextmanager
def whole_to_read(parts: list[Part], roots: list[Part]) -> Iterator[None]:
    """Gathers parts of nets, and keeps them so through calls."""
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
    """Puts whole weights where shards were, which take over what was written to them; calls gather nothing."""
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
    """This process's share of a weight, where its place is spread; otherwise the weight itself.

    Args:
        weight: Whole, or spread already.
        place: What it is to be copied into.
    """
    if not isinstance(place, DTensor) or isinstance(weight, DTensor):
        return weight
    return distribute_tensor(weight.to(place.device, place.dtype), place.device_mesh, place.placements)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Gathers a tensor if it is divided among the processes, which all call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def no_inference_mode(trainer: Trainer) -> None:
    """Evaluates without gradients only: memory for gathered weights that inference mode makes, training cannot use.

    Lightning itself does so for one of its strategies (loops/utilities.py, `_no_grad_context`).
    """
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        loop.inference_mode = False
