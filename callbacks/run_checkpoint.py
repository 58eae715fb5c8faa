"""Writes checkpoints after each epoch, and within an epoch after some time or when the run is told to stop."""

import logging
import signal
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_rlhf.disk import free_bytes
from lightning_rlhf.distributed.collectives import gather_objects, is_first_process
from lightning_rlhf.distributed.launcher_watch import obey_signals
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import STOPPING, Interrupted, handle, leave_terminal, noted, say_from_handler
from lightning_rlhf.run_log import LOG
from lightning_rlhf.saving import keeping
from lightning_rlhf.sizes import readable

log = logging.getLogger(__name__)

# The last one, the one before it, and the one that is being written.
_HELD = 3
_STOPS = "stopping after this step, with a checkpoint; Ctrl-C once more stops at once"


class RunCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also writes `last.ckpt` between two steps of an epoch.

    It does so when enough time has passed or enough steps were taken, and when the process is told to stop: by Ctrl-C
    (SIGINT), by SIGTERM, which schedulers send before they kill, or by SIGHUP, which a closed terminal sends. The ranks
    hear of it at different moments, and a sharded checkpoint is written by all of them: so they agree after each
    optimizer step, where they stand at the same place. Then all raise `Interrupted`. A second Ctrl-C stops at once,
    without a checkpoint. SLURM's signal to requeue a job is put off to the same place, where Lightning's own handler
    saves and requeues. The checkpoint before the last one stays as `previous.ckpt`, for the case that the last one is
    damaged.
    """

    def __init__(
        self, dirpath: str, every_minutes: float | None = 30.0, every_updates: int | None = None, **settings: Any
    ) -> None:
        """Stores where and when to write.

        Args:
            dirpath: The folder of the checkpoints.
            every_minutes: The longest time between two checkpoints, if a step takes less; None for no such limit.
            every_updates: The largest number of optimizer steps between two checkpoints; None for no such limit.
            settings: Those of `ModelCheckpoint`, which say what is written at the end of epochs.

        Raises:
            UserError: If the time or the number is not positive.
        """
        super().__init__(dirpath, **settings)
        for name, limit in {"every_minutes": every_minutes, "every_updates": every_updates}.items():
            if limit is not None and not limit > 0:
                raise UserError(f"checkpoint: {name}={limit} must be positive, or null")
        self.every = None if every_minutes is None else timedelta(minutes=every_minutes).total_seconds()
        self.every_updates = every_updates
        self.saved = 0.0
        self.saved_step = 0
        self.step = 0
        self.received = 0
        self.handlers: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets SIGTERM stop the evaluation before training at once, as Ctrl-C does.

        Lightning's own handler would begin an exchange with the other ranks, in the middle of any other exchange.
        """
        if _in_main_thread():
            obey_signals((signal.SIGTERM,))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and puts signals off from here on, when there is work to lose."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            warn_of_small_disk(Path(str(self.dirpath)), pl_module)
        self._restart(trainer)
        self.step, self.received = trainer.global_step, noted()
        if _in_main_thread():
            self.handlers = handle((*STOPPING, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])), self._receive)

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
            due |= self.every_updates is not None and self.step - self.saved_step >= self.every_updates
            if trainer.strategy.reduce_boolean_decision(due or bool(self.received), all=False):
                self._save_last(trainer)
                self._restart(trainer)
                self._obey()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and stops if a signal arrived during the last step or the evaluation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._restart(trainer)
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            if self._last_global_step_saved != trainer.global_step:
                self._save_last(trainer)
            self._obey()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the previous signal handlers."""
        super().on_train_end(trainer, pl_module)
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the previous signal handlers, or ignores signals while Lightning cleans up after one."""
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, KeyboardInterrupt):
            # Lightning restores the handlers that it has found.
            self.handlers = dict.fromkeys(self.handlers, signal.SIG_IGN)
        self._restore()

    def _restart(self, trainer: Trainer) -> None:
        """Starts the time and the steps until a checkpoint is due."""
        self.saved, self.saved_step = time.monotonic(), trainer.global_step

    def _save_last(self, trainer: Trainer) -> None:
        last = Path(str(self.dirpath)) / "last.ckpt"
        with _keeping_previous(trainer, last):
            trainer.save_checkpoint(last, weights_only=False)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Saves at the end of an epoch."""
        with _keeping_previous(trainer, Path(filepath)):
            super()._save_checkpoint(trainer, filepath)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise Interrupted(number)
        self.received = number
        if number != signal.SIGUSR1 and is_first_process():
            say_from_handler(_STOPS)
            # The disk may be full. An error of this handler would arise wherever the signal has arrived.
            with suppress(OSError):
                LOG.write(_STOPS)
        if number == signal.SIGHUP:
            leave_terminal()

    def _obey(self) -> None:
        """Obeys the signal that any rank has received."""
        number = max(gather_objects([self.received]))
        if number == signal.SIGUSR1:
            self.received = 0
            self.handlers[number](number, None)
        elif number:
            raise Interrupted(number)

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def warn_of_small_disk(folder: Path, module: LightningModule) -> None:
    """Warns before the first step if the disk has no room for the checkpoints that a run holds at one time.

    A checkpoint has the trained weights and, for Adam, two numbers for each of them. The parts of a sharded model that
    other processes hold may not be counted, so the run may need more.
    """
    trained = sum(weight.numel() * weight.element_size() for weight in module.parameters() if weight.requires_grad)
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    held = sum((folder / name).exists() for name in ("last.ckpt", "previous.ckpt"))
    needed, free = (_HELD - held) * 3 * trained, free_bytes(there)
    if free < needed:
        log.warning(
            "%s: the disk has %s free, and the checkpoints of this run take at least %s (%d more of %s, with the one "
            "that is being written): free some, or name another folder (hydra.run.dir=FOLDER)",
            folder,
            readable(free),
            readable(needed),
            _HELD - held,
            readable(3 * trained),
        )


def _keeping_previous(trainer: Trainer, checkpoint: Path) -> AbstractContextManager[None]:
    """Context in which a checkpoint is replaced, and stays beside the new one; the first process keeps it for all."""
    return keeping(checkpoint, checkpoint.with_name("previous.ckpt")) if trainer.is_global_zero else nullcontext()


def _in_main_thread() -> bool:
    """Whether this thread may handle signals."""
    return threading.current_thread() is threading.main_thread()
