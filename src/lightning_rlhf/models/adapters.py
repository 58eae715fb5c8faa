"""Adapters: small trained matrices beside the frozen weights of a net (LoRA), by peft.

They are put into a net in place, without peft's wrapper: its class, its `generate` and the names of what holds no
adapter stay. A net may hold several, of which one plays at a time. peft takes seconds to import, so it is where it is
needed.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.strategies.blocks import blocks

ADAPTER = "default"
"""Name of the adapter of a net that has one."""
HEADS = ("score", "classifier")
"""What families call the head of their scalar form."""
# Of each net, kept since a pass through a large net's modules takes milliseconds and a checkpointed block needs them.
_LAYERS: "WeakKeyDictionary[nn.Module, list[Any]]" = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Lora:
    """How large an adapter is, and where it goes.

    A layer gives W x + s B A x, where A is (rank, in), B is (out, rank), and s = alpha / rank.
    """

    rank: int = 8
    """Of the change to each weight matrix."""
    alpha: int = 16
    """The change is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Of the adapter's input. PPO needs 0, since rollout and update must see the same net."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (Kalajdzievski, 2023)."""
    dora: bool = False
    """Train the length of each column of the weights too (Liu et al., 2024)."""
    target_modules: list[str] | None = None
    """Last parts of the names of linear layers, such as q_proj; None: all linear layers of the transformer blocks."""

    def __post_init__(self) -> None:
        """Checks the values."""
        raise_problems(
            f"model.adapter.{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("rank", self.rank, self.rank > 0, "be positive"),
                ("alpha", self.alpha, self.alpha > 0, "be positive"),
                ("dropout", self.dropout, 0 <= self.dropout < 1, "lie in [0, 1)"),
                ("target_modules", self.target_modules, self.target_modules != [], "name a layer, or be null"),
            ]
            if not holds
        )


def linear_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in the transformer blocks of a net by the last part of their names; one of each."""
    return {
        name.removesuffix(".base_layer").rpartition(".")[2]: layer
        for block in blocks(net)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and not is_part_of_adapter(name)
    }


def inject(net: PreTrainedModel, lora: Lora, name: str) -> None:
    """Adds an adapter to a net, which gives what it gave before until the adapter is trained, and lets it play.

    Afterwards the adapters of the net are trained, and the head of a scalar model if it was; nothing else. Adapters
    are kept in fp32 where the net is in 16 bits, as peft does: steps of a small learning rate would be rounded away.

    Args:
        net: A Hugging Face model, changed in place.
        lora: The adapter.
        name: Of the adapter, for `playing`.

    Raises:
        UserError: If the net has no such layers.
    """
    layers = linear_layers(net)
    targets = lora.target_modules or list(layers)
    unknown = [target for target in targets if target not in layers]
    if unknown or not targets:
        raise UserError(
            f"model.adapter.target_modules: {type(net).__name__} has no linear layer {', '.join(unknown)} in its "
            f"blocks; it has {', '.join(layers) or 'none'}"
        )
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=sorted(targets),
        # GPT-2's layers hold (in, out) weights.
        fan_in_fan_out=isinstance(layers[targets[0]], Conv1D),
    )
    inject_config(net, config, name)


def inject_config(net: PreTrainedModel, config: Any, name: str) -> None:
    """Does what `inject` does with a configuration of peft.

    Args:
        net: A Hugging Face model, changed in place.
        config: peft's `LoraConfig`.
        name: Of the adapter.

    Raises:
        ValueError: If the net has no such layers.
    """
    from peft import inject_adapter_in_model

    trained_heads = [head for head in heads(net) if any(weight.requires_grad for weight in head.parameters())]
    with warnings.catch_warnings():
        # That the net has adapters already: it is meant to.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(config, net, name)
    _LAYERS.clear()
    for layer in adapter_layers(net):
        layer._active_adapter = [name]
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(is_part_of_adapter(parameter_name))
        if parameter.requires_grad:
            # As peft does for a model of its own.
            parameter.data = parameter.data.float()
    for head in trained_heads:
        head.requires_grad_(True)


def heads(net: nn.Module) -> list[nn.Module]:
    """The head of a net's scalar form, if it is one."""
    return [module for name, module in net.named_children() if name in HEADS]


def adapter_layers(net: nn.Module) -> list[Any]:
    """The layers of a net, or of a module with nets in it, that hold adapters."""
    if net not in _LAYERS:
        _LAYERS[net] = [layer for layer in net.modules() if hasattr(layer, "lora_A")]
    return _LAYERS[net]


@contextmanager
def playing(net: nn.Module, name: str | None) -> Iterator[None]:
    """In it the net is the one with this adapter; afterwards it is what it was before.

    What is trained stays as it is, unlike with peft's `set_adapter`: several adapters of a net can be in one loss.
    Blocks that are computed again for a backward pass (see `checkpointing`) play what they played the first time.

    Args:
        net: With adapters, or without any, which changes nothing.
        name: Of an adapter; None: the net without adapters.
    """
    layers = adapter_layers(net)
    with _played(layers, [[] if name is None else [name]] * len(layers)):
        yield


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


def checkpointing(net: nn.Module) -> Callable[[], tuple[AbstractContextManager, AbstractContextManager]]:
    """What `torch.utils.checkpoint` takes as `context_fn`: a block that is computed again plays the same adapter."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        layers = adapter_layers(net)
        return nullcontext(), _played(layers, _active(layers))

    return contexts


def is_part_of_adapter(name: str) -> bool:
    """Whether a weight or module with this name is an adapter's."""
    return ".lora_" in f".{name}"
