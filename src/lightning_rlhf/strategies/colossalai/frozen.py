"""Frozen models under Gemini, which divides trained weights only (zero/gemini/gemini_ddp.py, `_init_chunks`).

Gemini never sees frozen models. torch's `fully_shard` divides them, and gathers a model block by block in each call.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from lightning_rlhf.distributed import shards
from lightning_rlhf.distributed.blocks import models_in
from lightning_rlhf.distributed.shapes import lift_scalars


class FrozenNets:
    """The models of a module that have no trained weights."""

    def __init__(self, module: nn.Module) -> None:
        """Finds the frozen models of a module."""
        self.nets = [
            net
            for net in dict.fromkeys(models_in(module))
            if not any(weight.requires_grad for weight in net.parameters())
        ]
        self.places = [
            (owner, name, net)
            for owner in module.modules()
            for name, net in owner.named_children()
            if any(net is frozen for frozen in self.nets)
        ]

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Takes these models out of the module for a while."""
        for owner, name, _ in self.places:
            owner._modules[name] = None
        try:
            yield
        finally:
            for owner, name, net in self.places:
                owner._modules[name] = net

    def divide(self, dtype: torch.dtype, device: torch.device, *, offload: bool) -> None:
        """Casts the weights of the models and divides them among the processes.

        Args:
            dtype: The dtype of the weights.
            device: The device of this process.
            offload: Whether shards rest in the CPU's memory; on a CPU they always do.
        """
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        policy = CPUOffloadPolicy() if offload and device.type != "cpu" else OffloadPolicy()
        for net in self.nets:
            lift_scalars(net)
            for parameter in net.parameters():
                parameter.data = parameter.data.to(dtype)
            shards.shard(net, mesh, offload_policy=policy)
            for buffer in net.buffers():
                buffer.data = buffer.data.to(device)

    def scatter(self) -> None:
        """Divides what a call has left gathered, because no backward pass follows that would do so."""
        for part in shards.parts(*self.nets):
            part.reshard()

    @contextmanager
    def whole(self, wanted: tuple[nn.Module, ...], *, write: bool) -> Iterator[None]:
        """Gathers the models that are wanted as a whole or in part; keeps what is written to them if `write` is set."""
        modules = {part for net in wanted for part in net.modules()}
        roots = [net for net in self.nets if not modules.isdisjoint(net.modules())]
        parts = shards.parts(*roots)
        with shards.whole_to_write(parts) if write else shards.whole_to_read(parts, roots):
            yield

    def release(self) -> None:
        """Moves the shards from the GPU to the CPU; they stay divided."""
        self.scatter()
        for net in self.nets:
            net.cpu()
