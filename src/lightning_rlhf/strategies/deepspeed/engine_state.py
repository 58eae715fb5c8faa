"""The state of a DeepSpeed engine: weights, and the optimizer's fp32 copies of trained weights."""

import argparse
from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_rlhf.strategies.deepspeed.zero3 import is_spread


def initialize(
    model: nn.Module, optimizer: Optimizer | None, lr_scheduler: object, config: dict[str, object], device_index: int
) -> tuple[nn.Module, Optimizer]:
    """Creates the engine of a module, and the engine's optimizer."""
    import deepspeed

    engine, ds_optimizer, _, _ = deepspeed.initialize(
        args=argparse.Namespace(device_rank=device_index),
        config=config,
        model=model,
        model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        dist_init_required=False,
    )
    return engine, ds_optimizer


def named_weights(model: nn.Module, *, copies: bool, gathered: Container[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields whole weights and buffers by name; all ranks gather them together, one by one.

    Args:
        model: A submodule of the module that the engine trains.
        copies: Whether to yield the fp32 copies of trained weights.
        gathered: The weights that are whole already.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    for name, tensor in model.state_dict(keep_vars=True).items():
        # If a weight were gathered a second time, it would be divided when this context ends.
        with deepspeed.zero.GatheredParameters([] if tensor in gathered else [tensor]):
            yield name, safe_get_full_fp32_param(tensor) if copies and tensor.requires_grad else tensor.detach()


def fp32_parts(module: nn.Module) -> list[Tensor]:
    """Returns this process's parts of the fp32 copies of trained weights."""
    from deepspeed.utils import safe_get_local_fp32_param

    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if any(is_spread(parameter) for parameter in trained):
        return [safe_get_local_fp32_param(parameter) for parameter in trained]
    # A weight that lies wholly in the parts of other processes has no mapping (deepspeed/utils/tensor_fragment.py).
    mappings = [getattr(parameter, "_hp_mapping", None) for parameter in trained]
    return [mapping.get_hp_fragment() for mapping in mappings if mapping is not None]


@torch.no_grad()
def keep_changes(parameters: Iterable[nn.Parameter]) -> None:
    """Copies changed weights to the optimizer's fp32 copies; the copies of unchanged weights keep their digits.

    Args:
        parameters: Whole trained weights, which were the rounded fp32 copies before they were written.
    """
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_local_fp32_param,
        safe_set_full_fp32_param,
        safe_set_local_fp32_param,
    )

    for parameter in parameters:
        spread = is_spread(parameter)
        weight = _own_part(parameter) if spread else parameter
        copy = safe_get_local_fp32_param(parameter) if spread else safe_get_full_fp32_param(parameter)
        kept = weight == copy.to(weight.dtype)
        if not kept.all():
            put = safe_set_local_fp32_param if spread else safe_set_full_fp32_param
            put(parameter, torch.where(kept, copy, weight.to(copy.dtype)))


def _own_part(parameter: nn.Parameter) -> Tensor:
    """Returns this process's part of a weight that is whole now; zeros at the end make the parts equal."""
    size, processes = parameter.partition_numel(), dist.get_world_size()  # type: ignore[attr-defined]
    padded = nn.functional.pad(parameter.flatten(), (0, size * processes - parameter.numel()))
    return padded.chunk(processes)[dist.get_rank()]


def release(engine: Any, *, keep_weights: bool) -> None:
    """Frees the memory that training has left on the device.

    Args:
        engine: The engine that trained.
        keep_weights: Whether to keep divided weights; otherwise the module loses them.
    """
    from deepspeed.runtime.zero import parameter_offload

    engine.destroy()
    # The stack would keep every module that was ever trained in this process.
    parameter_offload.FWD_MODULE_STACK.clear()
    if not keep_weights:
        for parameter in filter(is_spread, engine.module.parameters()):
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)
    if engine.basic_optimizer is not None:
        # They have too many references to be freed by themselves.
        engine.basic_optimizer.state.clear()
        engine.basic_optimizer.param_groups.clear()
        vars(engine.optimizer).clear()
        engine.optimizer = None
