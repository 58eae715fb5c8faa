"""Evaluates the end of a run, whenever it comes."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EvaluateEnd(Callback):
    """Evaluates the last epoch and the last step, also if `check_val_every_n_epoch` would not.

    Lightning evaluates after every so many epochs and at the end of an epoch only, so that a run would end without
    metrics of its last weights if `max_epochs` is not divisible, or if `max_steps` or `max_time` ends it within an
    epoch. Lightning's `Timer` must come before this callback, and callbacks whose stop needs no evaluation after it.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Covers a run that resumes within its last epoch, for which Lightning does not call the next hook."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has Lightning evaluate after the last epoch."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Has Lightning evaluate after the last step. It decides whether to evaluate right after this hook."""
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            trainer.check_val_every_n_epoch = 1
            trainer.val_check_batch = batch_idx + 1
