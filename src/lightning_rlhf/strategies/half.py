"""Weights in 16 bits (`bf16-true`, `16-true`) on one device or under DDP."""

from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision
from torch import nn


class HalfPrecisionWeights(HalfPrecision):
    """Lightning's, but buffers keep their dtype.

    They hold the frequencies of rotary embeddings, on which far positions lie, and an export, which does not hold
    them, is read back with exact ones.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts the weights."""
        for parameter in module.parameters():
            parameter.data = parameter.data.to(self._desired_input_dtype)
        return module


def keep_buffers(trainer: Trainer) -> None:
    """Lets a trainer that casts whole modules cast their weights only; strategies that shard do that themselves."""
    plugin = trainer.precision_plugin
    if type(plugin) is HalfPrecision:
        trainer.strategy.precision_plugin = HalfPrecisionWeights(plugin.precision)
