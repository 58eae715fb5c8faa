"""Which adapter of a net plays."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# Of each net, kept since a pass through a large net's modules takes milliseconds and a checkpointed block needs them.
_LAYERS: "WeakKeyDictionary[nn.Module, list[Any]]" = WeakKeyDictionary()


def adapter_layers(net: nn.Module) -> list[Any]:
    """The layers of a net, or of a module with nets in it, that hold adapters."""
    if net not in _LAYERS:
        _LAYERS[net] = [layer for layer in net.modules() if hasattr(layer, "lora_A")]
    return _LAYERS[net]


def forget_layers() -> None:
    """Layers are looked for anew, after nets have got adapters."""
    _LAYERS.clear()


def let_play(net: nn.Module, name: str) -> None:
    """From now on the net is the one with this adapter."""
    for layer in adapter_layers(net):
        layer._active_adapter = [name]


@contextmanager
def playing(net: nn.Module, name: str | None) -> Iterator[None]:
    """In it the net is the one with this adapter; afterwards it is what it was before.

    What is trained stays as it is, unlike with peft's `set_adapter`: several adapters of a net can be in one loss.
    Blocks that are computed again for a backward pass (see `Checkpointing`) play what they played the first time.

    Args:
        net: With adapters, or without any, which changes nothing.
        name: Of an adapter; None: the net without adapters.
    """
    layers = adapter_layers(net)
    with _played(layers, [[] if name is None else [name]] * len(layers)):
        yield


@contextmanager
def playing_by_rows(net: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """In it each row of a batch meets an adapter of its own; not for DoRA, and without gradients.

    Args:
        net: With adapters.
        names: Of an adapter for each row; None: no adapter.
    """
    # peft's name for no adapter.
    rows = [name or "__base__" for name in names]

    def name_rows(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
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
def _played(layers: Sequence[Any], active: Sequence[str | list[str]]) -> Iterator[None]:
    before = _active(layers)
    _activate(layers, active)
    try:
        yield
    finally:
        _activate(layers, before)


def _active(layers: Sequence[Any]) -> list[str | list[str]]:
    return [layer._active_adapter for layer in layers]


def _activate(layers: Sequence[Any], active: Sequence[str | list[str]]) -> None:
    # The attribute itself, since peft's `set_adapter` also changes what is trained, which DDP and FSDP do not expect.
    for layer, names in zip(layers, active, strict=True):
        layer._active_adapter = names


class Checkpointing:
    """What `torch.utils.checkpoint` takes as `context_fn`: a block that is computed again plays the same adapter."""

    def __init__(self, net: nn.Module) -> None:
        """Takes the net that has the block; an attribute, so that a copy of the net has its own."""
        self.net = net

    def __call__(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """What to enter the first time and again."""
        layers = adapter_layers(self.net)
        return nullcontext(), _played(layers, _active(layers))


def mixes(net: nn.Module) -> bool:
    """Whether `playing_by_rows` can.

    peft knows no such form of DoRA. Layers in 8 bits set columns apart that are large in any row, for all rows alike:
    the reference's numbers would depend on the actor's.
    """
    layers = adapter_layers(net)
    return not any(layer.lora_variant or type(layer.base_layer).__name__ == "Linear8bitLt" for layer in layers)
