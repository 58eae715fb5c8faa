"""Writes checkpoints after each epoch, and within an epoch after some time or when the run is told to stop."""

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.distributed.collectives import gather_objects, is_first_process
from lightning_rlhf.errors import UserError

_STDERR = 2


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also writes `last.ckpt` between two steps of an epoch.

    It does so when enough time has passed, and when the process is told to stop: by Ctrl-C (SIGINT), or by SIGTERM,
    which schedulers send before they kill. The ranks hear of either at different moments, and a sharded checkpoint is
    written by all of them: so they agree after each optimizer step, where they stand at the same place. Then all raise
    KeyboardInterrupt. A second Ctrl-C stops at once, without a checkpoint. SLURM's signal to requeue a job is put off
    to the same place, where Lightning's own handler saves and requeues.
    """

    def __init__(self, dirpath: str, every_minutes: float | None = 30.0, **settings: Any) -> None:
        """Stores where and when to write.

        Args:
            dirpath: The folder of the checkpoints.
            every_minutes: The longest time between two checkpoints, if a step takes less; None for ends of epochs only.
            settings: Those of `ModelCheckpoint`, which say what is written at the end of epochs.

        Raises:
            UserError: If the time is not positive.
        """
        super().__init__(dirpath, **settings)
        if every_minutes is not None and every_minutes <= 0:
            raise UserError(f"checkpoint: every_minutes={every_minutes} must be positive, or null")
        self.every = None if every_minutes is None else timedelta(minutes=every_minutes).total_seconds()
        self.saved = 0.0
        self.step = 0
        self.received = 0
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and handles signals from here on, when there is work to lose."""
        super().on_train_start(trainer, pl_module)
        self.saved, self.step, self.received = time.monotonic(), trainer.global_step, 0
        # Only the main thread may do so. A process that ignores Ctrl-C, such as one under nohup, keeps ignoring it.
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])]
            heard = [number for number in signals if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self.handlers = {number: signal.signal(number, self._receive) for number in heard}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Saves if it is due or the run was told to stop, except after the last step of an epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self.step:
            # Only a part of a minibatch has ended.
            return
        self.step = trainer.global_step
        if batch_idx + 1 < trainer.num_training_batches:
            due = self.every is not None and time.monotonic() - self.saved > self.every
            if trainer.strategy.reduce_boolean_decision(due or bool(self.received), all=False):
                self._save_last(trainer)
                self.saved = time.monotonic()
                self._obey()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and stops if a signal arrived during the last step or the evaluation."""
        super().on_train_epoch_end(trainer, pl_module)
        self.saved = time.monotonic()
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            if self._last_global_step_saved != trainer.global_step:
                self._save_last(trainer)
            self._obey()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the previous signal handlers."""
        super().on_train_end(trainer, pl_module)
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the previous signal handlers, except for Ctrl-C, which Lightning ignores while it cleans up."""
        super().on_exception(trainer, pl_module, exception)
        self.handlers.pop(signal.SIGINT, None)
        self._restore()

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = number
        if number != signal.SIGUSR1 and is_first_process():
            # The signal may have interrupted a call of print, so print must not be used here.
            os.write(_STDERR, b"\nstopping after this step, with a checkpoint; Ctrl-C once more stops at once\n")

    def _obey(self) -> None:
        """Obeys the signal that any rank has received."""
        number = max(gather_objects([self.received]))
        if number == signal.SIGUSR1:
            self.received = 0
            self.handlers[number](number, None)
        elif number:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
