"""Builds models on the CPU from the weights of a checkpoint, or from those that processes have gathered."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.lora import is_part_of_adapter
from lightning_rlhf.models.adapters.merging import of_weights, plain_net, with_adapters
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.exported_weights import plain_class
from lightning_rlhf.models.precision import as_exported, export_in
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource


def empty_net(source: ModelSource, *, scalar: bool) -> torch.nn.Module:
    """Builds a model on the meta device, with its class and configuration but without weights.

    Args:
        source: Where the model comes from.
        scalar: Whether it is a `ScalarModel`.
    """
    config = source.hf_config()
    auto = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    if scalar:
        config.num_labels = 1
    with torch.device("meta"):
        net = auto.from_config(config, dtype=source.torch_dtype, trust_remote_code=source.trust_remote_code)
        export_in(net, source.torch_dtype)
        return ScalarModel(net) if scalar else net


def adapted(
    source: ModelSource, weights: dict[str, torch.Tensor], *, scalar: bool, dtype: torch.dtype | None
) -> torch.nn.Module:
    """Builds a model on the CPU with the adapter of a checkpoint.

    Args:
        source: Where the frozen weights come from.
        weights: The trained weights.
        scalar: Whether the model is a `ScalarModel`.
        dtype: The dtype of the weights into which the adapter is merged; None keeps the adapter beside the weights.

    Raises:
        UserError: If the adapter belongs to another model.
    """
    net: Any = load_scalar_model(source, "normal") if scalar else load_causal_lm(source)
    check_shapes_of(weights, net)
    result = net.load_state_dict(weights, strict=False)
    differing = [*result.unexpected_keys, *(name for name in result.missing_keys if is_part_of_adapter(name))]
    if differing:
        raise UserError(f"the checkpoint is of another model: they differ in {', '.join(differing[:3])}…")
    if dtype is None:
        return net
    plain: Any = plain_net(net.net if scalar else net, dtype)
    if not scalar:
        return plain
    plain.config.score_bias = float(net.bias.detach())
    return ScalarModel(plain)


def check_shapes_of(weights: Mapping[str, torch.Tensor], net: torch.nn.Module) -> None:
    """Checks that the weights of a checkpoint have the shapes of a model, which may be on the meta device.

    Raises:
        UserError: If they have not. The message names the first one.
    """
    own = net.state_dict()
    for name, weight in weights.items():
        # A strategy that shards may write a scalar as a list of one number.
        if name in own and weight.shape != own[name].shape and not weight.numel() == own[name].numel() == 1:
            raise UserError(
                f"the checkpoint is of another model: {name} has the shape {tuple(weight.shape)} there, and "
                f"{tuple(own[name].shape)} in the settings of the run: leave it in the folder of its own run"
            )


def rebuilt(net: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Builds a whole copy of a model on the CPU, with the same adapters.

    Args:
        net: A causal language model or a `ScalarModel`, on the meta device or divided among processes.
        weights: All its weights and buffers, by their names in its `state_dict`.
    """
    hf_net: Any = net.net if isinstance(net, ScalarModel) else net
    kind = plain_class(hf_net)
    bias = weights.pop("bias") if isinstance(net, ScalarModel) else None
    weights = as_exported(hf_net, {name.removeprefix("net."): weight for name, weight in weights.items()})
    plain: Any = (
        with_adapters(kind, hf_net, weights) if adapter_layers(hf_net) else of_weights(kind, hf_net.config, weights)
    )
    if bias is None:
        plain.generation_config = copy.deepcopy(hf_net.generation_config)
        return plain
    plain.config.score_bias = float(bias)
    return ScalarModel(plain)
