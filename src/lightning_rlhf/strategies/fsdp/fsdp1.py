"""FSDP1: torch's `FullyShardedDataParallel` as a Lightning strategy."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import lightning.pytorch.strategies as lightning_strategies
import torch
from lightning.fabric.strategies.fsdp import _move_torchmetrics_to_device, _setup_activation_checkpointing
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.optim import Optimizer

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.distributed.half_precision import cast_weights
from lightning_rlhf.distributed.phases import of_optimizers
from lightning_rlhf.distributed.shapes import lift_scalars, note_shapes, whole_shape
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.fsdp.precision import Precision
from lightning_rlhf.strategies.fsdp.shared import DividedByFSDP


class FSDPStrategy(DividedByFSDP, lightning_strategies.FSDPStrategy):
    """Divides weights, gradients and the optimizer's state among all processes, including those of frozen models.

    Each block is gathered when it is called. The weights of all models outside their blocks are gathered together, for
    a training step or a rollout. Mixed precision is autocast on weights in their own precision. Unlike with
    `FSDP2Strategy`, frozen weights get the dtype of the trained weights, and frozen embeddings and heads take memory
    for gradients.
    """

    def __init__(self, *, gather_for_generation: bool = True, **settings: Any) -> None:
        """Stores how to divide the weights.

        Args:
            gather_for_generation: Gather a model that samples once for a rollout; otherwise it is gathered block by
                block for each token, which takes less memory and much more time.
            **settings: Settings of Lightning's `FSDPStrategy`, such as `cpu_offload` and `sharding_strategy`. Without
                an `auto_wrap_policy`, transformer blocks are wrapped.

        Raises:
            UserError: If a setting would change the names of weights or the format of checkpoints, or would divide the
                weights among some processes only.
        """
        divided = str(getattr(settings.get("sharding_strategy"), "name", settings.get("sharding_strategy")))
        if "HYBRID" in divided.upper():
            raise UserError(
                f"FSDPStrategy: sharding_strategy={divided}: weights must be divided among all processes: set "
                "FULL_SHARD or SHARD_GRAD_OP"
            )
        for name, value in {"use_orig_params": True, "state_dict_type": "sharded"}.items():
            if settings.setdefault(name, value) != value:
                raise UserError(f"FSDPStrategy: {name}={settings[name]} must be {value}")
        super().__init__(**settings)
        self.gather_for_generation = gather_for_generation
        self.root: FullyShardedDataParallel | None = None
        self.gathered: set[nn.Module] = set()

    def setup_environment(self) -> None:
        """Connects the processes, after the checks that are possible before models are built.

        Raises:
            UserError: If FSDP does not support a setting of the trainer on a CPU.
        """
        if self.root_device.type == "cpu":
            if self.cpu_offload is not None and self.cpu_offload.offload_params:
                # torch/distributed/fsdp/_flat_param.py, `_check_on_compute_device`.
                raise UserError(
                    "FSDPStrategy: cpu_offload=true moves weights from a GPU to the CPU, and there is no GPU"
                )
            if self.precision_plugin.precision in ("16-mixed", "16-true"):
                raise UserError(
                    f"trainer.precision={self.precision_plugin.precision}: FSDP has no fp16 on the CPU; set 32-true "
                    "or bf16-mixed"
                )
        self._precision_plugin = Precision(self.precision_plugin, self.root_device)
        super().setup_environment()

    @property
    def mixed_precision_config(self) -> MixedPrecision | None:
        """A configuration that sums gradients in fp32; autocast does the rest.

        Lightning's configuration makes FSDP cast weights too. But weights that are gathered for a rollout are not cast
        (`_force_full_precision` in torch/distributed/fsdp/_flat_param.py), so the log-probs of rollout and update would
        differ. It also casts buffers, such as the frequencies of rotary embeddings.
        """
        return self.mixed_precision or MixedPrecision(reduce_dtype=torch.float32)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        """Wraps the module.

        This does the same as Lightning, but also passes a device that is a CPU, because torch would not choose it
        (torch/distributed/fsdp/_init_utils.py, `_get_compute_device`).

        Raises:
            UserError: If trained weights have several dtypes, or another strategy has wrapped them.
        """
        if self.root is not None and self.root.module is model:
            # An earlier run of the same trainer has wrapped it.
            return self.root
        if any(isinstance(part, FullyShardedDataParallel) for part in model.modules()):
            raise UserError("FSDPStrategy: the module was sharded by another trainer: build a new one")
        lift_scalars(model)
        note_shapes(model)
        dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
        if len(dtypes) > 1:
            raise UserError(
                f"FSDPStrategy: weights of several dtypes ({', '.join(map(str, dtypes))}) cannot lie in one tensor: "
                "load all trained models in one dtype, or set strategy=fsdp2"
            )
        for dtype in dtypes:
            # Frozen weights lie in the same tensors as trained ones.
            cast_weights(model, dtype)
        settings = {
            "auto_wrap_policy": partial(lambda_auto_wrap_policy, lambda_fn=set(blocks(model)).__contains__),
            # With a mesh, the shares in a checkpoint are DTensors. The older ShardedTensors cannot be loaded on a rank
            # without a share (torch/distributed/checkpoint/_sharded_tensor_utils.py drops them).
            "device_mesh": init_device_mesh(self.root_device.type, (self.world_size,)),
        } | self.kwargs
        self.root = FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **settings,
        )
        _move_torchmetrics_to_device(self.root, self.root_device)
        _setup_activation_checkpointing(self.root, self._activation_checkpointing_kwargs)
        return self.root

    def validation_step(self, *arguments: object, **settings: object) -> Any:
        """Calls the module's `validation_step` in a rollout context; inside FSDP's forward it could not enter one."""
        with self.precision_plugin.val_step_context(), self.rollout():
            return self._module().validation_step(*arguments, **settings)

    def rollout(self) -> AbstractContextManager[None]:
        """See `Sharding`: gathers the weights of the models outside their blocks."""
        return self._gather([self._root()], write=False)

    @contextmanager
    def whole(self, *nets: nn.Module, write: bool) -> Iterator[None]:
        """See `Sharding`; also gathers the weights of all other models outside their blocks."""
        units = [part for net in nets for part in net.modules() if isinstance(part, FullyShardedDataParallel)]
        with self._gather([self._root(), *units], write=write):
            yield

    @contextmanager
    def _gather(self, units: list[FullyShardedDataParallel], *, write: bool) -> Iterator[None]:
        assert not (write and self.gathered), "weights that are gathered to be read cannot be written"
        mine = [unit for unit in dict.fromkeys(units) if unit not in self.gathered]
        with ExitStack() as stack:
            for unit in mine:
                stack.enter_context(FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=write))
                # FSDP's own forward would gather the weights and then release them.
                unit.forward = unit.module.__call__  # type: ignore[method-assign]
                stack.callback(delattr, unit, "forward")
            self.gathered |= set(mine)
            stack.callback(self.gathered.difference_update, mine)
            yield

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`; gathers one block at a time, beside the weights of all models outside their blocks."""
        with self.rollout():
            yield from self._named_weights(model, "")

    def _named_weights(self, module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Walks through a module in the order of its `state_dict`."""
        if isinstance(module, FullyShardedDataParallel):
            with self._gather([module], write=False):
                yield from self._named_weights(module.module, prefix)
            return
        buffers = {name: b for name, b in module._buffers.items() if name not in module._non_persistent_buffers_set}
        for name, tensor in (module._parameters | buffers).items():
            if tensor is not None:
                yield prefix + name, tensor.detach()
        for name, child in module.named_children():
            yield from self._named_weights(child, f"{prefix}{name}.")

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """See `Sharding`."""
        return sum(whole_shape(p).numel() for p in net.parameters() if p.requires_grad or not trained)

    def trained_weights(self) -> list[Tensor]:
        """See `Sharding`."""
        return of_optimizers(self.optimizers)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Returns this process's share of the weights, for a checkpoint."""
        return get_model_state_dict(self._root())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns this process's share of the optimizer's state, for a checkpoint."""
        return get_optimizer_state_dict(self._root(), optimizer)

    def checkpoint_root(self) -> nn.Module:
        """See `DividedByFSDP`."""
        return self._root()

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _root(self) -> FullyShardedDataParallel:
        assert self.root is not None
        return self.root
