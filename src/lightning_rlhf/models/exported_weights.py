"""The weights that an export holds, one after the other: merged, rounded, and by the names that files have."""

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
# What the names of a block's weights begin with, such as "model.layers.3.".
_BLOCK = re.compile(r".*?\.\d+\.")


class ExportedWeights(NamedTuple):
    """Weights and buffers of a Hugging Face model on the CPU, without adapters and quantized layers."""

    dtype: torch.dtype
    stream: Weights
    bias: float
    """That of a scalar model, which no weight of Hugging Face's model is; otherwise 0."""


def of_model(model: nn.Module) -> ExportedWeights:
    """The weights of a model that this process holds whole.

    Args:
        model: A causal language model, or a `ScalarModel`; with adapters or quantized layers or neither.
    """
    scalar = isinstance(model, ScalarModel)
    hf_model: Any = model.net if scalar else model
    dtype = exported_dtype(hf_model)
    weights = ((name, _rounded(weight, dtype)) for name, weight in merged_weights(hf_model))
    return ExportedWeights(dtype, weights, float(model.bias.detach()) if isinstance(model, ScalarModel) else 0.0)


def of_stream(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> ExportedWeights:
    """The weights of a plain model that is divided among processes.

    Args:
        model: A causal language model, or a `ScalarModel`.
        weights: Its whole weights, see `distributed.phases.named_weights`. Without a dtype that exports of the model
            are rounded to, all get the dtype of the first one.
    """
    scalar, stream = isinstance(model, ScalarModel), iter(weights)
    # A module's own parameters come before those of its parts.
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
    """A model of the same class, configuration and generation settings on the meta device: it has no weights.

    Args:
        model: Perhaps with adapters or quantized layers, or divided among processes; it stays as it is.
        dtype: Of the weights that it would have.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        empty = plain_class(model)(config).to(dtype)
    if empty.can_generate():
        empty.generation_config = copy.deepcopy(model.generation_config)
    # How names in files become names in the model; a model that was not loaded has none.
    empty._weight_conversions = getattr(model, "_weight_conversions", None)
    return empty


def plain_class(model: PreTrainedModel) -> Any:
    """The class of transformers; what divides a model may give it a class of its own, made from that one."""
    return next(cls for cls in type(model).__mro__ if not cls.__module__.startswith("torch."))


def in_files(model: PreTrainedModel, empty: PreTrainedModel, weights: Weights) -> Weights:
    """Weights by the names that they have in files, each tied one once, as `save_pretrained` has them.

    Args:
        model: Says which weights are tied.
        empty: Its skeleton.
        weights: By the names that the model has.
    """
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    kept = (named for named in weights if named[0] not in left_out)
    # transformers joins or splits some weights for its files, such as those of experts: those of one block.
    for _, block in groupby(kept, key=_block_of):
        yield from revert_weight_conversion(empty, dict(block)).items()


def _block_of(named: tuple[str, Tensor]) -> str:
    found = _BLOCK.match(named[0])
    return found[0] if found else ""


def noting_lost(weights: Weights, lost: list[str]) -> Weights:
    """Passes weights on, and adds the names of those that are NaN or infinite to a list."""
    for name, weight in weights:
        if not weight.isfinite().all():
            lost.append(name)
        yield name, weight


class Fingerprints:
    """Checksums of the weights that were written: what they were, without the memory that they took."""

    def __init__(self) -> None:
        """Begins with none."""
        self._sums: dict[str, tuple[torch.dtype, int]] = {}

    def taken(self, weights: Weights) -> Weights:
        """Passes weights on, and stores the checksum of each."""
        for name, weight in weights:
            self._sums[name] = weight.dtype, _checksum(weight)
            yield name, weight

    def differing(self, model: PreTrainedModel) -> list[str]:
        """The names of the weights of a model on the CPU that are not what was written, bit by bit."""
        found = model.state_dict()
        return [
            name
            for name, (dtype, checksum) in self._sums.items()
            if name not in found or _checksum(found[name].to(dtype)) != checksum
        ]


def _checksum(weight: Tensor) -> int:
    numbers: Any = weight.contiguous().flatten().view(torch.uint8).numpy()
    return zlib.crc32(numbers)
