"""Precision under DeepSpeed, whose engine casts weights and keeps fp32 copies of trained ones."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from torch import Tensor, nn

from lightning_rlhf.distributed.half_precision import KeepsDigits

DTYPES = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "16-true": torch.float16,
}
"""The dtype of weights in computations, by `trainer.precision`; there is no autocast, even under mixed precision."""


class Precision(KeepsDigits, DeepSpeedPrecision):
    """Lightning's, without what changes numbers."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Leaves casting to the engine, which keeps buffers, such as rotary frequencies, in fp32."""
        return module

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Any, *arguments: object, **settings: Any
    ) -> None:
        """Computes gradients.

        Lightning has divided the loss by the number of accumulated parts (loops/optimization/automatic.py), and the
        engine would do it again.
        """
        super().backward(tensor, model, optimizer, *arguments, scale_wrt_gas=False, **settings)
