"""Measures the memory of an iteration that no clock measures, because measuring slows it down."""

import gc
import resource
import sys
from contextlib import ExitStack

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.benchmark.meter import Meter, allocated, tensor_bytes
from lightning_rlhf.hooks import RLHFCallback


class PeakMemory(RLHFCallback):
    """Measures the largest number of bytes of tensors in one iteration, on this process."""

    def __init__(self, iteration: int) -> None:
        """Takes the number of the iteration, counted from 0."""
        self.iteration, self.peak = iteration, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the meter."""
        if trainer.current_epoch != self.iteration:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            return
        gc.collect()
        # The rest belongs to Python and libraries.
        self.other, self.meter, self.stack = allocated() - tensor_bytes(), Meter(), ExitStack()
        self.stack.enter_context(self.meter)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the meter."""
        if trainer.current_epoch != self.iteration:
            return
        if pl_module.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(pl_module.device)
            return
        self.stack.close()
        self.peak = self.meter.most - self.other


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far, in bytes (man 2 getrusage)."""
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
