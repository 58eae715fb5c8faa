"""Draws the run card, a page about a run."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rlhf.errors import UserError


class RunCard(Callback):
    """Writes `report.html` into the run folder, during the run and at its end."""

    def __init__(self, every: int = 10) -> None:
        """Stores how often the card is drawn.

        Args:
            every: The number of epochs (PPO: iterations) after which it is drawn again.

        Raises:
            UserError: If `every` is not positive.
        """
        if every < 1:
            raise UserError(f"run card: every={every} must be at least 1")
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the current state of the run."""
        if (trainer.current_epoch + 1) % self.every == 0:
            self._draw(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draws the finished or interrupted run."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        # Drawing needs matplotlib, which takes its time to import.
        from lightning_rlhf.report import write_report

        for logger in trainer.loggers:
            logger.save()
        write_report(Path(trainer.default_root_dir))
