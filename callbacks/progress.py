"""Shows the progress of a run: a bar on a terminal, lines elsewhere, and a line for each finished epoch."""

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lightning_rlhf.callbacks.heartbeat import Heartbeat
from lightning_rlhf.callbacks.pace import Pace
from lightning_rlhf.callbacks.phase_bar import Cells, PhaseBar
from lightning_rlhf.console import console, number
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback, StepNumbers
from lightning_rlhf.run_log import LOG

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
# Numbers leave the GPU for the bar at most this often.
_REFRESH_SECONDS = 0.25


class PhaseProgress(ProgressBar, RLHFCallback):
    """A bar for rollout, update and evaluation, and a permanent line after each epoch (PPO: iteration).

    Beside the bar stand the loss, the learning rate, the time that is left, and the rate. If the output is not a
    terminal, lines show the same now and then; the log of the run has these lines in either case.
    """

    def __init__(self, unit: str = "epoch", log_every: int = 50, every_seconds: float = 60.0) -> None:
        """Stores what to show.

        Args:
            unit: The word for an epoch, epoch or iteration.
            log_every: The number of optimizer steps after which there is a line.
            every_seconds: The time after which there is a line, whatever the run does meanwhile.

        Raises:
            UserError: If one of them is not positive.
        """
        super().__init__()
        if log_every < 1 or not every_seconds > 0:
            raise UserError(f"progress: log_every={log_every} and every_seconds={every_seconds} must be positive")
        self.unit, self.log_every = unit, log_every
        self.heartbeat = Heartbeat(every_seconds, self._line)
        self.bar = PhaseBar(self._cells)
        self.pace: Pace | None = None
        self.shown = ""
        self.enabled = True
        self.validated = self.evaluating = False
        self.numbers: StepNumbers | None = None
        self.rollout: Cells = ()
        self.step: Cells = ()
        self.read_at = 0.0
        self.steps_without_line = 0

    def disable(self) -> None:
        """Disables all output; Lightning calls this on all ranks but the first."""
        self.enabled = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the lines."""
        if self.enabled:
            self.heartbeat.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the run."""
        if self._counts_epochs():
            self.pace = Pace(trainer.current_epoch, trainer.max_epochs or math.inf)
        else:
            self.pace = Pace(trainer.global_step, trainer.estimated_stepping_batches)

    def _counts_epochs(self) -> bool:
        # Most of the time of an iteration may pass in its rollout, before the first step.
        return self.unit == "iteration"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Shows the update again after an evaluation within an epoch, and in an epoch that is resumed."""
        if not self.shown:
            self._begin_epoch(trainer, batch_idx)
        elif self.evaluating:
            self._phase("update", int(trainer.num_training_batches), batch_idx)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the update; a rollout replaces it while it runs."""
        self._begin_epoch(trainer, 0)

    def _begin_epoch(self, trainer: Trainer, done: int) -> None:
        self.shown, self.validated = f"{self.unit} {trainer.current_epoch + 1}/{trainer.max_epochs}", False
        self._phase("update", int(trainer.num_training_batches), done)

    def on_rollout_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Shows the rollout."""
        self._phase("rollout", None)

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Shows the update and the score."""
        self.rollout = [
            (label, number(rollout.metrics[name])) for name, label in (("score_mean", "score"), ("kl", "kl"))
        ]
        self._phase("update", int(trainer.num_training_batches))

    def on_step_numbers(self, trainer: Trainer, module: LightningModule, numbers: StepNumbers) -> None:
        """Stores the numbers of a step."""
        self.numbers = numbers
        self.steps_without_line += numbers.steps

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Moves the bar."""
        if not self.enabled:
            return
        self.bar.advance()
        if self.pace is not None and not self._counts_epochs():
            self.pace.measure(trainer.global_step)
        due = self.steps_without_line >= self.log_every
        if self.numbers is not None and (due or time.monotonic() - self.read_at > _REFRESH_SECONDS):
            self._read(self.numbers)
        if due:
            self._line()

    def _read(self, numbers: StepNumbers) -> None:
        """Reads numbers that may still be on a GPU."""
        self.read_at = time.monotonic()
        rates = list(numbers.rates.values())
        self.step = [
            *([] if numbers.loss is None else [("loss", number(float(numbers.loss)))]),
            *(("lr", f"{rate:.3g}") for rate in rates[:1]),
            ("steps/s", number(numbers.steps_per_second)),
            ("tokens/s", number(float(numbers.tokens_per_second))),
        ]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the evaluation."""
        if trainer.sanity_checking:
            self.shown = ""
            self._phase("evaluate before training", int(sum(trainer.num_sanity_val_batches)))
        else:
            self._phase("evaluate", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, *_: object) -> None:
        """Moves the bar."""
        self.bar.advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the line of the epoch has held-out metrics to show."""
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the line of the epoch."""
        # Lightning averages over all processes when the metrics are read, so all of them must read.
        metrics = trainer.callback_metrics
        if not self.enabled:
            return
        cells = [
            (label, number(float(metrics[name])))
            for name, label in _SHOWN.items()
            if name in metrics and (self.validated or not name.startswith("val/"))
        ]
        rate = [("lr", f"{float(metrics['train/lr']):.3g}")] if "train/lr" in metrics else []
        if self.pace is not None and self._counts_epochs():
            self.pace.measure(trainer.current_epoch + 1)
        self.bar.close()
        console.cells(self.shown, [*cells, *rate])
        self._printed()

    def on_train_end(self, *_: object) -> None:
        """Removes the bar."""
        self._end()

    def on_exception(self, *_: object) -> None:
        """Removes the bar."""
        self._end()

    def _end(self) -> None:
        self.heartbeat.stop()
        self.bar.close()

    def _phase(self, name: str, total: int | None, done: int = 0) -> None:
        self.evaluating = name == "evaluate"
        if self.enabled:
            self.bar.phase(f"{self.shown} {name}".strip(), total, done)

    def _cells(self) -> Cells:
        left = self.pace.time_left() if self.pace is not None else ""
        return [*self.step[:2], *([("ETA", left)] if left else []), *self.step[2:], *self.rollout]

    def _line(self) -> None:
        """Prints where the run stands. The heartbeat calls it from a thread of its own."""
        if console.is_terminal:
            LOG.write("  ".join([self.bar.title(), *(f"{label} {value}" for label, value in self._cells())]))
        else:
            console.cells(self.bar.title(), self._cells())
        self._printed()

    def _printed(self) -> None:
        self.steps_without_line = 0
        self.heartbeat.touch()
