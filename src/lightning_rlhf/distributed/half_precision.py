"""Weights in 16 bits (`bf16-true`, `16-true`), and all else in the digits that it came in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision
from torch import nn

from lightning_rlhf.errors import UserError


def cast_weights(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the weights of a module, but not its buffers.

    They hold the frequencies of rotary embeddings, on which far positions lie, and an export, which does not hold
    them, is read back with exact ones.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


class KeepsDigits:
    """The part of a precision plugin that leaves batches, buffers and new tensors as they are.

    Lightning's plugins round them to 16 bits. But nets read ids, and what a batch holds in numbers, such as old
    log-probs and advantages, is for a loss that is computed in fp32; and a tensor that a loss or a net makes for itself
    takes its dtype from torch's default, which Lightning's plugins change in `forward_context`.
    """

    def convert_input(self, data: object) -> Any:
        """Leaves a batch as it is."""
        return data

    def tensor_init_context(self) -> AbstractContextManager:
        """Leaves torch's default dtype as it is."""
        return nullcontext()

    def module_init_context(self) -> AbstractContextManager:
        """Leaves torch's default dtype as it is: nets know their own."""
        return nullcontext()


class HalfPrecisionWeights(KeepsDigits, HalfPrecision):
    """Lightning's, for weights alone."""

    def forward_context(self) -> AbstractContextManager:  # type: ignore[override]
        """Leaves torch's default dtype as it is."""
        return nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts the weights."""
        return cast_weights(module, self._desired_input_dtype)


def keep_digits(trainer: Trainer) -> None:
    """Lets a trainer that casts whole modules and batches cast weights only; before nets are built.

    Strategies that cast weights in a way of their own put their own plugins in place.

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
            "log-probs, advantages and margins: take bf16-mixed, bf16-true or 32-true"
        )
