"""Adapters: small trained matrices beside the frozen weights of a model (LoRA), by peft.

They are put into a model in place, without peft's wrapper, so the model keeps its class, its `generate`, and the names
of the layers that get no adapter. A model may hold several adapters, of which one is active at a time. peft takes
seconds to import, so functions import it where they need it.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

import copy
import re
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.distributed.loading import divided_in_loading
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.models.adapters.active import activate, forget_layers

ADAPTER = "default"
"""Name of the adapter of a model that has a single one."""
HEADS = ("score", "classifier")
"""Names that families of models give to the head of their scalar form."""


def is_of_head(key: str) -> bool:
    """Whether a name belongs to a weight of a scalar model's head."""
    return key.split(".")[0] in HEADS


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The size and the place of an adapter.

    A layer computes W x + s B A x, where A is (rank, in), B is (out, rank), and s = alpha / rank.

    Attributes:
        rank: Rank of the change to each weight matrix.
        alpha: The change is multiplied by alpha / rank.
        dropout: Dropout of the adapter's input. PPO needs 0, since rollout and update must see the same model.
        rslora: Multiply by alpha / sqrt(rank) instead (Kalajdzievski, 2023).
        dora: Train the length of each column of the weights too (Liu et al., 2024).
        target_modules: Last parts of the names of linear layers, such as q_proj; None for all linear layers of
            transformer blocks.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    target_modules: list[str] | None = None

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
    """Finds one linear layer of each name in the transformer blocks of a model, by the last part of the name."""
    return {
        name.removesuffix(".base_layer").rpartition(".")[2]: layer
        for block in blocks(net)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and not is_part_of_adapter(name)
    }


def inject(net: PreTrainedModel, lora: Lora, name: str) -> None:
    """Adds an adapter to a model and activates it; the model computes what it did before until the adapter is trained.

    Afterwards only the adapters of the model are trained, and the head of a scalar model if it was trained before.
    Both are in fp32 even if the model is in 16 bits, as in peft, because 16 bits would round the steps of a small
    learning rate away.

    Args:
        net: A Hugging Face model, changed in place.
        lora: The adapter.
        name: Name of the adapter, for `activated`.

    Raises:
        UserError: If the model has no such layers.
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
        # The layers of GPT-2 have weights of shape (in, out).
        fan_in_fan_out=isinstance(layers[targets[0]], Conv1D),
    )
    inject_config(net, config, name)


def inject_config(net: PreTrainedModel, config: Any, name: str) -> None:
    """Adds the adapter of a peft configuration; see `inject`.

    Args:
        net: A Hugging Face model, changed in place.
        config: peft's `LoraConfig`.
        name: Name of the adapter.

    Raises:
        ValueError: If the model has no such layers.
    """
    from peft import inject_adapter_in_model

    trained_heads = [head for head in heads(net) if any(weight.requires_grad for weight in head.parameters())]
    with warnings.catch_warnings():
        # peft warns that the model has adapters already, which is intended.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        inject_adapter_in_model(config, net, name)
    forget_layers()
    activate(net, name)
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(is_part_of_adapter(parameter_name))
        if parameter.requires_grad:
            # peft does the same for a model that it wraps.
            parameter.data = parameter.data.float()
    for head in trained_heads:
        head.requires_grad_(True)
        if not divided_in_loading(head.weight):
            head.weight.data = head.weight.data.float()


def heads(net: nn.Module) -> list[nn.Linear]:
    """Returns the head of a scalar model in a list, which is empty for other models."""
    return [cast(nn.Linear, module) for name, module in net.named_children() if name in HEADS]


def train_only(net: nn.Module, *names: str) -> None:
    """Makes the weights of these adapters trainable, and freezes all others."""
    for key, weight in net.named_parameters():
        weight.requires_grad_(any(is_part_of_adapter(key, name) for name in names))


def copy_adapter(net: PreTrainedModel, source: str, name: str) -> None:
    """Adds a copy of an adapter, and activates it; see `inject`.

    Args:
        net: A model that contains the adapter.
        source: Name of the adapter.
        name: Name of the copy.
    """
    configs: Any = net.peft_config
    inject_config(net, copy.deepcopy(configs[source]), name)
    put_adapter(net, source, name)


@torch.no_grad()
def put_adapter(net: nn.Module, source: str, name: str) -> None:
    """Copies the weights of the adapter `source` into the adapter `name`, which must have the same size."""
    weights = dict(net.named_parameters())
    for key, weight in weights.items():
        if is_part_of_adapter(key, name):
            weight.copy_(weights[re.sub(rf"\.{name}(\.|$)", rf".{source}\1", key)])


def is_part_of_adapter(name: str, adapter: str = "") -> bool:
    """Whether a weight or module with this name belongs to an adapter, or to the adapter that is named."""
    _, lora, rest = f".{name}".partition(".lora_")
    return bool(lora) and (not adapter or adapter in rest.split("."))
