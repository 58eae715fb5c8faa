"""ZeRO 3 of DeepSpeed: weights are spread over the processes, and hooks gather those of a layer when it is called.

A weight that is spread keeps its name and is an empty tensor; `ds_tensor` is this process's part, `ds_shape` the shape
of the whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def shard(module: nn.Module, config: dict[str, object], dtype: torch.dtype, device: torch.device) -> None:
    """Divides the weights of a module that are still whole, one by one; those of the first process count.

    Left to itself, `deepspeed.initialize` would first move all nets as they are to the GPU
    (`engine._configure_distributed_model`).

    Args:
        module: On the CPU; nets that `sharded_loading` has loaded are spread already.
        config: DeepSpeed's.
        dtype: What the weights compute in.
        device: Where the parts and the module's buffers go.
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
    """Lets `from_pretrained` divide each weight as it reads it: only the first process reads, none holds a whole model.

    Not for `from_config`: transformers before 5 draws no weights there (`_init_weights` gets empty tensors), and later
    versions draw other ones than without ZeRO 3.

    Args:
        config: DeepSpeed's.
    """
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # transformers holds it by a weak reference, and zero.Init wants a batch size that does not matter.
    kept = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, **config})
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del kept


def is_spread(tensor: Tensor) -> bool:
    """Whether it is a weight of which this process holds a part."""
    return hasattr(tensor, "ds_id")


def writable(parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Gathers those weights that are divided already, and divides them again with what the first process wrote."""
    divided = [parameter for parameter in parameters if is_spread(parameter)]
    if not divided:
        return nullcontext()
    # An attribute of the package, and no module to import from.
    import deepspeed

    return deepspeed.zero.GatheredParameters(divided, modifier_rank=0)


def note_shapes_of_spread(module: nn.Module) -> None:
    """Notes the shape of each weight that is spread already on the weight itself."""
    for parameter in filter(is_spread, module.parameters()):
        parameter.whole_shape = parameter.ds_shape  # type: ignore[attr-defined]


def forget_order(engine: object) -> None:
    """Lets layers be called in another order than the one recorded in training, by which DeepSpeed gathers ahead.

    Otherwise calls between two steps would be recorded as if they were part of a step, or, on a complete record, end
    it one by one.
    """
    coordinator = _offload(engine).get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()


@contextmanager
def gathering(engine: object, models: Sequence[nn.Module], gathered: set[Tensor], *, write: bool) -> Iterator[None]:
    """Gives models their whole weights for a while, in which no hook gathers or releases any.

    Args:
        engine: DeepSpeed's.
        models: Submodules of what it trains.
        gathered: What is whole already, since DeepSpeed gathers nothing twice; the weights are in it for that while.
        write: Whether what the first process writes to weights stays.
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
            # After each call a hook would release the weights, and before the next one all ranks would gather them.
            stack.enter_context(_without(module._forward_pre_hooks, hooks))
            stack.enter_context(_without(module._forward_hooks, hooks))
        yield


@contextmanager
def _without(hooks: dict[int, Any], ids: set[int]) -> Iterator[None]:
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
    # Without an optimizer, in validation, the engine holds it itself.
    return getattr(engine.optimizer, "parameter_offload", engine.optimizer)
