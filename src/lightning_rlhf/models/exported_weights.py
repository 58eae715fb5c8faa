"""Streams the weights of an export: merged, rounded, and by their names in files."""

import copy
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lightning_rlhf.models.adapters.merging import merged_weights
from lightning_rlhf.models.precision import exported_dtype, marked_dtype
from lightning_rlhf.models.scalar import ScalarModel

Weights = Iterator[tuple[str, Tensor]]
# The prefix of the names of a block's weights, such as "model.layers.3.".
_BLOCK = re.compile(r".*?\.\d+\.")


class ExportedWeights(NamedTuple):
    """Weights and buffers of a Hugging Face model on the CPU, without adapters and quantized layers."""

    dtype: torch.dtype
    stream: Weights
    bias: float
    """The bias of a scalar model, which is not a weight of the Hugging Face model; otherwise 0."""


def of_model(model: nn.Module) -> ExportedWeights:
    """Returns the weights of a model that this process holds as a whole.

    Args:
        model: A causal language model or a `ScalarModel`, which may have adapters or quantized layers.
    """
    scalar = isinstance(model, ScalarModel)
    hf_model: Any = model.net if scalar else model
    dtype = exported_dtype(hf_model)
    weights = ((name, _rounded(weight, dtype)) for name, weight in merged_weights(hf_model))
    return ExportedWeights(dtype, weights, float(model.bias.detach()) if isinstance(model, ScalarModel) else 0.0)


def of_stream(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> ExportedWeights:
    """Returns the weights of a plain model that is divided among processes.

    Args:
        model: A causal language model, or a `ScalarModel`.
        weights: Its whole weights; see `distributed.phases.named_weights`. If the model has no dtype to which exports
            are rounded, all weights get the dtype of the first one.
    """
    scalar, stream = isinstance(model, ScalarModel), iter(weights)
    # The parameters of a module come before those of its submodules, so the bias is first.
    bias = float(next(stream)[1]) if scalar else 0.0
    hf_model: Any = model.net if scalar else model
    name, first = next(stream)
    dtype = marked_dtype(hf_model) or first.dtype
    copied = (
        (name.removeprefix("net.") if scalar else name, _rounded(weight, dtype, copied=True))
        for name, weight in chain([(name, first)], stream)
    )
    return ExportedWeights(dtype, copied, bias)


def _rounded(weight: Tensor, dtype: torch.dtype, *, copied: bool = False) -> Tensor:
    return weight.detach().to("cpu", dtype if weight.is_floating_point() else weight.dtype, copy=copied)


def skeleton(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Builds a model of the same class, configuration and generation settings on the meta device, without weights.

    Args:
        model: A model, which may have adapters or quantized layers, or be divided among processes. It does not change.
        dtype: The dtype of its parameters.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        empty = plain_class(model)(config).to(dtype)
    if empty.can_generate():
        empty.generation_config = copy.deepcopy(model.generation_config)
    # The mapping from names in files to names in the model; a model that was not loaded has none.
    empty._weight_conversions = getattr(model, "_weight_conversions", None)
    return empty


def plain_class(model: PreTrainedModel) -> Any:
    """Returns the class of transformers, because dividing a model may replace its class by a subclass."""
    return next(cls for cls in type(model).__mro__ if not cls.__module__.startswith("torch."))


def in_files(model: PreTrainedModel, empty: PreTrainedModel, weights: Weights) -> Weights:
    """Yields weights by their names in files, and each tied weight once, as `save_pretrained` does.

    Args:
        model: Its settings say which weights are tied.
        empty: Its skeleton.
        weights: Weights by their names in the model.
    """
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    kept = (named for named in weights if named[0] not in left_out)
    # transformers joins or splits some weights of a block for its files, such as those of experts.
    for _, block in groupby(kept, key=_block_of):
        yield from revert_weight_conversion(empty, dict(block)).items()


def _block_of(named: tuple[str, Tensor]) -> str:
    found = _BLOCK.match(named[0])
    return found[0] if found else ""


def noting_lost(weights: Weights, lost: list[str]) -> Weights:
    """Yields weights unchanged, and adds the names of those with NaN or infinity to a list."""
    for name, weight in weights:
        if not weight.isfinite().all():
            lost.append(name)
        yield name, weight


class Fingerprints:
    """Checksums of the written weights, which need no memory for the weights themselves."""

    def __init__(self) -> None:
        """Starts without checksums."""
        self._sums: dict[str, tuple[torch.dtype, int]] = {}

    def taken(self, weights: Weights) -> Weights:
        """Yields weights unchanged, and stores the checksum of each."""
        for name, weight in weights:
            self._sums[name] = weight.dtype, _checksum(weight)
            yield name, weight

    def differing(self, model: PreTrainedModel) -> list[str]:
        """Returns the names of weights of a model on the CPU that differ in any bit from the written ones."""
        found = model.state_dict()
        return [
            name
            for name, (dtype, checksum) in self._sums.items()
            if name not in found or _checksum(found[name].to(dtype)) != checksum
        ]


def _checksum(weight: Tensor) -> int:
    numbers: Any = weight.contiguous().flatten().view(torch.uint8).numpy()
    return zlib.crc32(numbers)
