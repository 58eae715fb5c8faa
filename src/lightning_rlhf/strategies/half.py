"""Weights in 16 bits (`bf16-true`, `16-true`)."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision
from torch import nn


def cast_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the weights of a module, but not its buffers.

    They hold the frequencies of rotary embeddings, on which far positions lie, and an export, which does not hold
    them, is read back with exact ones.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


class HalfPrecisionWeights(HalfPrecision):
    """Lightning's, but buffers and batches keep their dtype."""

    def convert_input(self, data: Any) -> Any:
        """Nets read ids; what a batch has of numbers, such as old log-probs, is for a loss that is computed in fp32."""
        return data

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts the weights."""
        return cast_weights(module, self._desired_input_dtype)


def keep_buffers(trainer: Trainer) -> None:
    """Lets a trainer that casts whole modules cast their weights only; FSDP1 has a plugin of its own."""
    plugin = trainer.precision_plugin
    if type(plugin) is HalfPrecision:
        trainer.strategy.precision_plugin = HalfPrecisionWeights(plugin.precision)
