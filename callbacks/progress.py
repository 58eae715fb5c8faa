"""Shows the progress of a run: the current phase, and a line for each finished epoch."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback

_SHOWN = {
    "rollout/score_mean": "score",
    "rollout/kl": "kl",
    "rollout/response_length": "length",
    "rollout/entropy": "entropy",
    "train/clip_fraction": "clipped",
    "train/loss": "loss",
    "val/loss": "val loss",
    "val/perplexity": "perplexity",
    "val/reward_accuracy": "val accuracy",
    "val/score": "val score",
    "val/gold_rate": "val gold",
    "perf/samples_per_second": "samples/s",
}


class PhaseProgress(ProgressBar, RLHFCallback):
    """A bar for rollout, update and evaluation, and a permanent line after each epoch (PPO: iteration).

    If the output is not a terminal, only the lines are printed.
    """

    def __init__(self, unit: str = "epoch") -> None:
        """Stores the word for an epoch.

        Args:
            unit: The word, epoch or iteration.
        """
        super().__init__()
        self.unit = unit
        self.console = Console()
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.shown = ""
        self.enabled = True

    def disable(self) -> None:
        """Disables all output; Lightning calls this on all ranks but the first."""
        self.enabled = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Shows a resumed epoch, for which Lightning does not call `on_train_epoch_start`."""
        if not self.shown:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Shows the update; a rollout replaces it while it runs."""
        self.shown = f"{self.unit} {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._phase(f"{self.shown} update", int(trainer.num_training_batches))

    def on_rollout_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Shows the rollout."""
        self._phase(f"{self.shown} rollout", None)

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Shows the update and the score."""
        score, kl = rollout.metrics["score_mean"], rollout.metrics["kl"]
        self._phase(f"{self.shown} update  score {score:.2f}  kl {kl:.2f}", int(trainer.num_training_batches))

    def on_train_batch_end(self, *_: object) -> None:
        """Moves the bar."""
        self._advance()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the evaluation."""
        if trainer.sanity_checking:
            self._phase("evaluate before training", sum(trainer.num_sanity_val_batches))
        else:
            self._phase(f"{self.shown} evaluate", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: object) -> None:
        """Moves the bar."""
        self._advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line of the epoch."""
        if not self.enabled:
            return
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        metrics = trainer.callback_metrics
        cells = [
            f"{label} [bold]{float(metrics[name]):.3g}[/]"
            for name, label in _SHOWN.items()
            if name in metrics and (validated or not name.startswith("val/"))
        ]
        self._close()
        self.console.print(f"{self.shown}  " + "  ".join(cells), highlight=False, soft_wrap=True)

    def on_train_end(self, *_: object) -> None:
        """Removes the bar."""
        self._close()

    def on_exception(self, *_: object) -> None:
        """Removes the bar."""
        self._close()

    def _phase(self, text: str, total: float | None) -> None:
        if not self.enabled or not self.console.is_terminal:
            return
        if self.progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.progress.start()
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(text, total=total)

    def _advance(self) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task)

    def _close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = self.task = None
