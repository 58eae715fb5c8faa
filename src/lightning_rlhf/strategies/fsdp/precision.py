"""The precision plugin of FSDP1."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.plugins import FSDPPrecision
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from lightning_rlhf.distributed.half_precision import KeepsDigits, cast_weights


class Precision(KeepsDigits, FSDPPrecision):
    """Lightning's plugin with clipping by norm, autocast on any device, and no cast except of weights to 16 bits."""

    def __init__(self, given: FSDPPrecision, device: torch.device) -> None:
        """Copies the settings of Lightning's plugin.

        Args:
            given: Lightning's plugin, which this one replaces.
            device: The device of this process.
        """
        super().__init__(given.precision)  # type: ignore[arg-type]
        self.scaler, self.device = given.scaler, device
        self.root: FullyShardedDataParallel | None = None

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Casts weights; under 32-true they keep the dtype in which they were loaded, as with other strategies."""
        if self.precision not in ("bf16-true", "16-true"):
            return module
        return cast_weights(module, self._desired_input_dtype)

    def connect(self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]) -> Any:
        """Stores the wrapped module, which clips gradients."""
        assert isinstance(model, FullyShardedDataParallel)
        self.root = model
        return super().connect(model, optimizers, lr_schedulers)

    def clip_grad_by_norm(self, optimizer: object, clip_val: float) -> None:
        """Clips gradients by their norm over all ranks."""
        assert self.root is not None
        self.root.clip_grad_norm_(clip_val)

    def forward_context(self) -> AbstractContextManager:
        """Returns the autocast context of the device.

        Lightning's plugin assumes a GPU (plugins/precision/fsdp.py), and changes torch's default dtype.
        """
        if "mixed" not in self.precision:
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype, cache_enabled=False)
