"""Weights in 16 bits (`bf16-true`, `16-true`), while batches and buffers keep their precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision
from torch import nn

from lightning_rlhf.errors import UserError

Batch = TypeVar("Batch")


def cast_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the weights of a module, but not its buffers.

    Buffers hold the frequencies of rotary embeddings. Far positions depend on their exact values, and so does an
    export: it does not contain them, and is read back with exact values.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


class KeepsDigits:
    """The part of a precision plugin that leaves batches, buffers and new tensors as they are.

    Lightning's plugins round them to 16 bits. But the numbers in a batch, such as old log-probs and advantages, are for
    losses in fp32; models only read ids. And a tensor that a loss or a model creates gets torch's default dtype, which
    Lightning's plugins change in `forward_context`.
    """

    def convert_input(self, data: Batch) -> Batch:
        """Leaves a batch as it is."""
        return data

    def tensor_init_context(self) -> AbstractContextManager:
        """Leaves torch's default dtype as it is."""
        return nullcontext()

    def module_init_context(self) -> AbstractContextManager:
        """Leaves torch's default dtype as it is, because each model states its own."""
        return nullcontext()


class HalfPrecisionWeights(KeepsDigits, HalfPrecision):
    """Lightning's plugin, restricted to weights."""

    def forward_context(self) -> AbstractContextManager:  # type: ignore[override]
        """Leaves torch's default dtype as it is."""
        return nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts the weights."""
        return cast_weights(module, self._desired_input_dtype)


def keep_digits(trainer: Trainer) -> None:
    """Makes a trainer that casts whole modules and batches cast weights only; call it before models are built.

    Strategies that cast weights in their own way install their own plugins.

    Raises:
        UserError: If the trainer has another plugin that rounds batches, such as that of Transformer Engine.
    """
    plugin = trainer.precision_plugin
    if type(plugin) is HalfPrecision:
        trainer.strategy.precision_plugin = HalfPrecisionWeights(plugin.precision)
        return
    number = torch.tensor(1 / 3)
    if plugin.convert_input(number) != number:
        raise UserError(
            f"trainer.precision={plugin.precision}: {type(plugin).__name__} rounds the numbers of a batch, such as old "
            "log-probs, advantages and margins: set bf16-mixed, bf16-true or 32-true"
        )
