"""The precision plugin of DeepSpeed, whose engine casts weights and keeps fp32 copies of trained weights."""

import torch
from lightning.fabric.utilities.types import Steppable
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
    """Lightning's plugin without its casts and its second division of the loss."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Leaves casting to the engine, which keeps buffers, such as rotary frequencies, in fp32."""
        return module

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Steppable, *arguments: object, **settings: object
    ) -> None:
        """Computes gradients.

        Lightning has divided the loss by the number of accumulated parts already (loops/optimization/automatic.py),
        and the engine must not do so again.
        """
        super().backward(tensor, model, optimizer, *arguments, scale_wrt_gas=False, **settings)
