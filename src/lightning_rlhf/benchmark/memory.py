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
    """Measures the largest number of bytes of tensors in each phase of one iteration, on this process."""

    def __init__(self, iteration: int) -> None:
        """Takes the number of the iteration, counted from 0."""
        self.iteration = iteration
        self.peaks: dict[str, int] = {}
        """The bytes by phase; empty before the iteration, and on a CPU whose C library does not tell them."""
        self.phase: str | None = None
        """The phase that is measured; None outside the iteration."""
        self.stack = ExitStack()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the meter. What an iteration does before it samples belongs to scoring, as in `Stopwatch`."""
        self.device = pl_module.device
        if trainer.current_epoch != self.iteration or not (self.device.type == "cuda" or measures()):
            return
        if self.device.type != "cuda":
            gc.collect()
            # The rest belongs to Python and libraries.
            self.other, self.meter = allocated() - tensor_bytes(), Meter()
            self.stack.enter_context(self.meter)
        self.phase = "score"
        self._most_since()

    def enter(self, phase: str) -> None:
        """Ends the phase that is measured and begins another. It starts with the tensors that are there."""
        if self.phase is not None:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self._most_since())
            self.phase = phase

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the meter for the last time."""
        if self.phase is not None:
            self.enter(self.phase)
            self.phase = None
            self.stack.close()

    def _most_since(self) -> int:
        """The largest number of bytes since the last call."""
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return most
        most, self.meter.most = self.meter.most - self.other, allocated()
        return most

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops the meter, which would slow down whatever this process does next."""
        self.stack.close()
        self.phase = None


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
