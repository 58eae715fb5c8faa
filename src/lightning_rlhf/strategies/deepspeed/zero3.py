"""ZeRO 3 of DeepSpeed: weights are divided among the processes, and hooks gather the weights of a layer in its call.

A divided weight keeps its name but is an empty tensor; `ds_tensor` is this process's part, and `ds_shape` is the shape
of the whole weight.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Hook = TypeVar("Hook")


def shard(module: nn.Module, config: dict[str, object], dtype: torch.dtype, device: torch.device) -> None:
    """Divides the weights of a module that are still whole, one by one; the parts come from the first process.

    Without this call, `deepspeed.initialize` would first move all models as a whole to the GPU
    (`engine._configure_distributed_model`).

    Args:
        module: A module on the CPU; models that `sharded_loading` has loaded are divided already.
        config: The configuration of DeepSpeed.
        dtype: The dtype in which the weights compute.
        device: The device of the parts and of the module's buffers.
    """
    import deepspeed

    for parameter in module.parameters():
        if not is_spread(parameter):
            parameter.data = parameter.data.to(dtype)
    deepspeed.zero.Init(module=module, config_dict_or_path=config)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


@contextmanager
def sharded_loading(config: dict[str, object]) -> Iterator[None]:
    """Context in which `from_pretrained` divides each weight when it reads it, so that no process holds a whole model.

    Only the first process reads. Models from `from_config` cannot be built here: transformers before 5 draws no weights
    (`_init_weights` gets empty tensors), and later versions draw other weights than without ZeRO 3.

    Args:
        config: The configuration of DeepSpeed.
    """
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # transformers keeps only a weak reference to it. zero.Init requires a batch size, whose value does not matter.
    kept = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, **config})
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del kept


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is a weight of which this process holds a part."""
    return hasattr(tensor, "ds_id")


def writable(parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Gathers the weights that are divided already; then divides them again with what the first process wrote."""
    divided = [parameter for parameter in parameters if is_spread(parameter)]
    if not divided:
        return nullcontext()
    # `zero` is an attribute of the package, not a module to import from.
    import deepspeed

    return deepspeed.zero.GatheredParameters(divided, modifier_rank=0)


def note_shapes_of_spread(module: nn.Module) -> None:
    """Stores the whole shape of each divided weight as an attribute of it."""
    for parameter in filter(is_spread, module.parameters()):
        parameter.whole_shape = parameter.ds_shape  # type: ignore[attr-defined]


def forget_order(engine: object) -> None:
    """Allows layers to be called in another order than in training.

    DeepSpeed records the order of the calls and uses it to gather weights ahead. Without this function, it would record
    calls between two steps as part of a step; once the record is complete, each such call would invalidate it.
    """
    coordinator = _offload(engine).get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()


@contextmanager
def gathering(engine: object, models: Sequence[nn.Module], gathered: set[Tensor], *, write: bool) -> Iterator[None]:
    """Context in which models have their whole weights, and no hook gathers or releases weights.

    Args:
        engine: The engine of DeepSpeed.
        models: Submodules of the module that the engine trains.
        gathered: The weights that are whole already, which DeepSpeed cannot gather again. In the context it also
            contains the weights of these models.
        write: Whether to keep what the first process writes to the weights.
    """
    import deepspeed

    wanted = dict.fromkeys(parameter for model in models for parameter in model.parameters())
    parameters = [parameter for parameter in wanted if parameter not in gathered]
    assert not write or len(parameters) == len(wanted), "weights that are gathered to be read cannot be written"
    with ExitStack() as stack:
        stack.enter_context(deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write else None))
        gathered.update(parameters)
        stack.callback(gathered.difference_update, parameters)
        hooks = {hook.id for hook in (*_offload(engine).forward_hooks, *_offload(engine).backward_hooks)}
        for module in {module for model in models for module in model.modules()}:
            # A hook would release the weights after each call, and all ranks would gather them before the next one.
            stack.enter_context(_without(module._forward_pre_hooks, hooks))
            stack.enter_context(_without(module._forward_hooks, hooks))
        yield


@contextmanager
def _without(hooks: dict[int, Hook], ids: set[int]) -> Iterator[None]:
    before = dict(hooks)
    for key in ids & hooks.keys():
        del hooks[key]
    try:
        yield
    finally:
        added = {key: hook for key, hook in hooks.items() if key not in before}
        hooks.clear()
        hooks.update(before | added)


def _offload(engine: Any) -> Any:
    # In validation there is no optimizer, and `engine.optimizer` is the parameter offload itself.
    return getattr(engine.optimizer, "parameter_offload", engine.optimizer)
