"""Measures the memory of an iteration that no clock measures, because measuring slows it down."""

import gc
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.benchmark.meter import Meter, allocated, measures, tensor_bytes
from lightning_rlhf.hooks import RLHFCallback


class PeakMemory(RLHFCallback):
    """Measures the largest number of bytes of tensors in one iteration, on this process."""

    def __init__(self, iteration: int) -> None:
        """Takes the number of the iteration, counted from 0."""
        self.iteration = iteration
        self.peak: int | None = None
        """The bytes; None before the end of the iteration, and on a CPU whose C library does not tell them."""
        self.stack = ExitStack()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the meter."""
        if trainer.current_epoch != self.iteration:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            return
        if not measures():
            return
        gc.collect()
        # The rest belongs to Python and libraries.
        self.other, self.meter = allocated() - tensor_bytes(), Meter()
        self.stack.enter_context(self.meter)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the meter."""
        if trainer.current_epoch != self.iteration:
            return
        if pl_module.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(pl_module.device)
            return
        if measures():
            self.stack.close()
            self.peak = self.meter.most - self.other

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops the meter, which would slow down whatever this process does next."""
        self.stack.close()


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far, in bytes.

    Linux says it in `/proc/self/status` as `VmHWM` (man 5 proc). The value of `getrusage` would not do there: a process
    inherits it from the one that started it, which may be larger. Other systems have `getrusage` alone.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    # macOS counts bytes, other systems KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
