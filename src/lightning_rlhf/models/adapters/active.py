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
