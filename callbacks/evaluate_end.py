"""Evaluates the end of a run, whenever it comes."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EvaluateEnd(Callback):
    """Evaluates the last epoch and the last step, even if `check_val_every_n_epoch` would not.

    Lightning evaluates after every so many epochs and at the end of an epoch only, so that a run would end without
    metrics of its last weights if `max_epochs` is not divisible, or if `max_steps` or `max_time` ends it within an
    epoch. Lightning's `Timer` must come before this callback. Callbacks that stop a run after a batch without needing
    an evaluation must come after it. `Health` stops a run before the optimizer step, so its place makes no difference.
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
        # Lightning goes on after a stop until `min_steps` and `min_epochs` are reached.
        stops = trainer.should_stop and trainer.fit_loop._can_stop_early
        if stops or trainer.global_step == trainer.max_steps:
            trainer.check_val_every_n_epoch = 1
            trainer.val_check_batch = batch_idx + 1
