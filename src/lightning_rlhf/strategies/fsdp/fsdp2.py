"""FSDP2: torch's `fully_shard` as a Lightning strategy."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
import torch.distributed.fsdp as torch_fsdp
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_rlhf.distributed import shards
from lightning_rlhf.distributed.blocks import models_in
from lightning_rlhf.distributed.half_precision import keep_digits
from lightning_rlhf.distributed.phases import of_optimizers
from lightning_rlhf.distributed.shapes import lift_scalars
from lightning_rlhf.distributed.shards import Part
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.fsdp.shared import DividedByFSDP


class FSDP2Strategy(DividedByFSDP, ModelParallelStrategy):
    """Divides weights, gradients and the optimizer's state among all processes, including those of frozen models.

    Each model is divided separately, block by block, and its own call gathers it. Under bf16-mixed, weights are
    gathered and compute in bf16; gradients are always summed in fp32.
    """

    def __init__(
        self,
        *,
        gather_for_generation: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        """Stores how to divide the weights.

        Args:
            gather_for_generation: Gather a model that samples once for a rollout; otherwise it is gathered block by
                block for each token, which takes less memory and much more time.
            process_group_backend: As in `ModelParallelStrategy`.
            timeout: As in `ModelParallelStrategy`.

        Raises:
            UserError: If torch is too old.
        """
        if not hasattr(torch_fsdp, "fully_shard"):
            raise UserError(f"FSDP2Strategy: torch {torch.__version__} has no fully_shard: install 2.6 or later")
        super().__init__("auto", 1, process_group_backend=process_group_backend, timeout=timeout)
        self.gather_for_generation = gather_for_generation
        self.nets: list[Part] = []
        self.gathered: set[Part] = set()

    def setup_environment(self) -> None:
        """Connects the processes, all of which share the weights."""
        # With "auto", Lightning would divide the weights within each machine (model_parallel.py, `setup_environment`).
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        keep_digits(self._module().trainer)
        shards.no_inference_mode(self._module().trainer)

    def setup(self, trainer: Trainer) -> None:
        """Divides the models, and builds the optimizer on their shards.

        Raises:
            UserError: If a weight belongs to no model.
        """
        module = self._module()
        lift_scalars(module)
        self.nets = [self._shard(net) for net in dict.fromkeys(models_in(module))]
        missed = [name for name, weight in module.named_parameters() if not isinstance(weight, DTensor)]
        if missed:
            raise UserError(
                f"FSDP2Strategy: {', '.join(missed)}: belongs to no model whose call would gather it: put it into a "
                "module of its own, or set another strategy"
            )
        super().setup(trainer)
        for net in self.nets:
            # The module that is called first becomes the root of its tree; in `whole`, that may be a part of a model.
            net._get_fsdp_state()._lazy_init()

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """See `Sharding`."""
        try:
            yield
        finally:
            # The weights outside the blocks stay gathered after a call, for a backward pass, which does not follow
            # here.
            for part in set(shards.parts(*self.nets)) - self.gathered:
                part.reshard()

    @contextmanager
    def whole(self, *nets: nn.Module, write: bool) -> Iterator[None]:
        """See `Sharding`; weights to read have the precision of computation, weights to write have their own."""
        wanted = {part for net in nets for part in net.modules()}
        roots = [net for net in self.nets if not wanted.isdisjoint(net.modules())]
        parts = [part for part in shards.parts(*roots) if part not in self.gathered]
        assert not write or parts == shards.parts(*roots), "weights that are gathered to be read cannot be written"
        self.gathered |= set(parts)
        try:
            with shards.whole_to_write(parts) if write else shards.whole_to_read(parts, roots):
                yield
        finally:
            self.gathered -= set(parts)

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`; one tensor is gathered at a time."""
        for name, tensor in model.state_dict().items():
            yield name, shards.whole_tensor(tensor)

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """See `Sharding`; a shard knows the size of the whole."""
        return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad or not trained)

    def trained_weights(self) -> list[Tensor]:
        """See `Sharding`."""
        return [cast(DTensor, weight).to_local() for weight in of_optimizers(self.optimizers)]

    def checkpoint_root(self) -> nn.Module:
        """See `DividedByFSDP`."""
        return self._module()

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _shard(self, net: nn.Module) -> Part:
        if isinstance(net, torch_fsdp.FSDPModule):
            # An earlier run of the same module has divided it.
            return net
        # The cast comes first, because the dtype of a shard cannot be changed.
        net = self.precision_plugin.convert_module(net)
        mixed = self.precision_plugin.precision == "bf16-mixed"
        policy = torch_fsdp.MixedPrecisionPolicy(torch.bfloat16 if mixed else None, reduce_dtype=torch.float32)
        return shards.shard(net, self.device_mesh["data_parallel"], mp_policy=policy)
