"""Plain weights of models that have adapters or quantized layers."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.lora import inject_config, is_of_head, is_part_of_adapter
from lightning_rlhf.models.fast_layers import speed_up

_QUANTIZED = ("Linear4bit", "Linear8bitLt")


def is_plain(net: nn.Module) -> bool:
    """Whether a model has neither adapters nor quantized layers."""
    return not adapter_layers(net) and not is_quantized(net)


def is_quantized(net: nn.Module, kinds: tuple[str, ...] = _QUANTIZED) -> bool:
    """Whether a model has quantized layers, by the names of their classes."""
    return any(type(module).__name__ in kinds for module in net.modules())


def active_adapter(net: nn.Module) -> str | None:
    """Returns the name of the active adapter, or None."""
    active = [name for layer in adapter_layers(net)[:1] for name in layer.active_adapters]
    return active[0] if active else None


@torch.no_grad()
def merged_weights(net: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights and buffers of a plain model that computes what this one does with its active adapter.

    The model itself does not change. Quantized weights are converted back to the dtype of the model.

    Args:
        net: A Hugging Face model, with adapters or quantized layers or neither.
    """
    name = active_adapter(net)
    adapted = [(path, module) for path, module in net.named_modules() if hasattr(module, "lora_A")]
    inside = tuple(f"{path}." for path, _ in adapted)
    quantized = [
        (path, module)
        for path, module in net.named_modules()
        # peft gives its layers with an adapter the same class names.
        if type(module).__name__ in _QUANTIZED and not hasattr(module, "lora_A") and not path.startswith(inside)
    ]
    inside += tuple(f"{path}." for path, _ in quantized)
    yield from ((key, weight) for key, weight in net.state_dict().items() if not key.startswith(inside))
    for path, layer in [*adapted, *quantized]:
        base: Any = layer.base_layer if hasattr(layer, "lora_A") else layer
        yield f"{path}.weight", _merged(layer, base, name)
        if base.bias is not None:
            yield f"{path}.bias", base.bias


def _merged(layer: Any, base: Any, name: str | None) -> Tensor:
    quantized = type(base).__name__ in _QUANTIZED
    weight = _dequantized(base) if quantized else base.weight
    if name is not None and name in getattr(layer, "lora_A", ()):
        variant = layer.lora_variant.get(name)
        if variant is None:
            weight = (weight + layer.get_delta_weight(name)).to(weight.dtype)
        else:
            weight = variant.merge_safe(layer, name, weight)
    # Quantized layers have weights of shape (out, in), even if the original layer had (in, out).
    return weight.T.contiguous() if quantized and issubclass(base.source_cls, Conv1D) else weight


def _dequantized(layer: Any) -> Tensor:
    """Returns the weight of a quantized layer; peft's own function would remove the scale of an 8-bit layer."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        return dequantize_4bit(weight.data, weight.quant_state)
    # The scale moves from the weight to the layer in the first call.
    return int8_vectorwise_dequant(weight.data, layer.state.SCB if weight.SCB is None else weight.SCB)


def plain_net(net: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Returns a model on the CPU that computes the same, but has neither adapters nor quantized layers.

    Args:
        net: A Hugging Face model.
        dtype: The dtype of the weights; None for that of `net`.
    """
    config = copy.deepcopy(net.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    embeddings: Any = net.get_input_embeddings()
    dtype = dtype or embeddings.weight.dtype
    weights = {
        key: weight.cpu().to(dtype if weight.is_floating_point() else weight.dtype)
        for key, weight in merged_weights(net)
    }
    return of_weights(type(net), config, weights)


def of_weights(kind: Any, config: Any, weights: dict[str, Tensor], **settings: object) -> Any:
    """Builds a model of a transformers class with these weights, and with the name that the configuration contains.

    Args:
        kind: The class.
        config: The architecture.
        weights: The weights by the names of the class.
        settings: Arguments of `from_pretrained`; the dtype defaults to that of the first weight.

    Raises:
        UserError: If weights are missing or superfluous, or have other shapes.
    """
    settings.setdefault("dtype", next(iter(weights.values())).dtype)
    # Otherwise transformers would only say that some shapes do not fit, without naming the weights.
    settings |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    net, report = kind.from_pretrained(None, config=config, state_dict=weights, **settings)
    needed = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    mismatched = {key for key, _, _ in report["mismatched_keys"]}
    differing = sorted(needed & set(report["missing_keys"]) | set(report["unexpected_keys"]) | mismatched)
    if differing:
        raise UserError(f"the weights are of another model than the configuration: they differ in {_some(differing)}")
    # The weights came by the names of the model and not of files, so saving must convert names as the class says.
    net._weight_conversions = None
    # transformers sets the name to "None".
    net.name_or_path = net.config.name_or_path = config.name_or_path
    speed_up(net)
    return net


def _some(names: list[str]) -> str:
    """Lists the first names, and counts the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def with_adapters(kind: Any, like: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Builds a model on the CPU with the same adapters as another, whose weights are given separately.

    Args:
        kind: The transformers class.
        like: The model that has the adapters.
        weights: All weights and buffers of `like`, by the names in its `state_dict`.
    """
    base = {key.replace(".base_layer.", "."): weight for key, weight in weights.items() if not is_part_of_adapter(key)}
    net = of_weights(kind, like.config, base)
    configs: Any = like.peft_config
    for name, config in configs.items():
        inject_config(net, copy.deepcopy(config), name)
    # Adapters and heads are in fp32 even if the rest of the model is in 16 bits.
    in_fp32 = {key: weight for key, weight in weights.items() if is_part_of_adapter(key) or is_of_head(key)}
    net.load_state_dict(in_fp32, strict=False)
    for layer, other in zip(adapter_layers(net), adapter_layers(like), strict=True):
        layer._active_adapter = other._active_adapter
    return net
