"""Which adapter of a model is active."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# The layers of each model: to search a large model takes milliseconds, and a checkpointed block needs them each time.
_LAYERS: "WeakKeyDictionary[nn.Module, list[Any]]" = WeakKeyDictionary()


def adapter_layers(net: nn.Module) -> list[Any]:
    """Finds the layers with adapters in a model, or in a module that contains models."""
    if net not in _LAYERS:
        _LAYERS[net] = [layer for layer in net.modules() if hasattr(layer, "lora_A")]
    return _LAYERS[net]


def forget_layers() -> None:
    """Makes `adapter_layers` search again, because a model has got a new adapter."""
    _LAYERS.clear()


def activate(net: nn.Module, name: str) -> None:
    """Makes an adapter the active one from now on."""
    for layer in adapter_layers(net):
        layer._active_adapter = [name]


@contextmanager
def activated(net: nn.Module, name: str | None) -> Iterator[None]:
    """Makes an adapter the active one for a while, and restores what was active before.

    Unlike peft's `set_adapter` it does not change which weights are trained, so one loss can depend on several adapters
    of a model. A block that is computed again for a backward pass uses the adapter of its first pass (`Checkpointing`).

    Args:
        net: A model; one without adapters stays as it is.
        name: Name of the adapter; None deactivates all adapters.
    """
    layers = adapter_layers(net)
    with _activated(layers, [[] if name is None else [name]] * len(layers)):
        yield


@contextmanager
def activated_by_rows(net: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Gives each part of a batch an adapter of its own for a while; not with DoRA, and without gradients.

    Args:
        net: A model with adapters.
        names: Name of the adapter of each of several equal parts of the rows, in order; None means no adapter.
    """
    # peft's name for no adapter.
    rows = [name or "__base__" for name in names]

    def name_rows(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, object]) -> tuple[Any, dict[str, Any]]:
        # OPT gives some layers one row for each token.
        times = len(inputs[0]) // len(rows)
        return inputs, named | {"adapter_names": [name for name in rows for _ in range(times)]}

    hooks = [layer.register_forward_pre_hook(name_rows, with_kwargs=True) for layer in adapter_layers(net)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _activated(layers: Sequence[Any], active: Sequence[str | list[str]]) -> Iterator[None]:
    before = _active(layers)
    _activate(layers, active)
    try:
        yield
    finally:
        _activate(layers, before)


def _active(layers: Sequence[Any]) -> list[str | list[str]]:
    return [layer._active_adapter for layer in layers]


def _activate(layers: Sequence[Any], active: Sequence[str | list[str]]) -> None:
    # The attribute itself, since peft's `set_adapter` also changes what is trained, which strategies do not expect.
    for layer, names in zip(layers, active, strict=True):
        layer._active_adapter = names


class Checkpointing:
    """What `torch.utils.checkpoint` takes as `context_fn`: a block that is computed again uses the same adapter."""

    def __init__(self, net: nn.Module) -> None:
        """Takes the model of the block. It is an attribute, so that a copy of the model refers to itself."""
        self.net = net

    def __call__(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Returns the contexts of the first pass and of the repeated one."""
        layers = adapter_layers(self.net)
        return nullcontext(), _activated(layers, _active(layers))


def mixes(net: nn.Module) -> bool:
    """Whether `activated_by_rows` works for a model.

    peft has no such form of DoRA. A layer in 8 bits treats a column apart for all rows if it is large in any row, so
    the numbers of the reference would depend on those of the actor.
    """
    layers = adapter_layers(net)
    return not any(layer.lora_variant or type(layer.base_layer).__name__ == "Linear8bitLt" for layer in layers)
