"""Writes `result.json`, the results of a run for scripts."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rlhf.callbacks.best import best_record
from lightning_rlhf.callbacks.health_record import health_record
from lightning_rlhf.callbacks.run_facts import run_facts
from lightning_rlhf.callbacks.start_checks import checks_record
from lightning_rlhf.callbacks.throughput import peak_bytes, peak_of
from lightning_rlhf.errors import NotFiniteError, UserError
from lightning_rlhf.interruption import interruption_behind
from lightning_rlhf.saving import write_json

_PACKAGES = ("lightning-rlhf", "torch", "lightning", "transformers", "hydra-core", "datasets", "peft", "wandb")


class RunRecord(Callback):
    """Keeps `result.json` in the run folder up to date: running, finished, stopped, interrupted, diverged or failed.

    A run that an alarm or `max_time` ends before its first evaluation is `stopped`; it has a model but no metrics. One
    whose numbers are no longer finite is `diverged`. A metric that is not finite is null, because JSON has no such
    number.
    """

    def __init__(self, stage: str, seed: int) -> None:
        """Stores the content of the record.

        Args:
            stage: Name of the stage.
            seed: The seed of the run.
        """
        self.stage, self.seed = stage, seed
        self.start = time.perf_counter()
        self.seconds_before = 0.0
        self.facts: dict[str, object] = {}
        self.metrics: dict[str, float] = {}
        self.measured_step = 0
        self.first_step = 0
        self.num_epochs = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records that the run has begun."""
        self.start = time.perf_counter()
        self.facts = run_facts(trainer, pl_module) if trainer.is_global_zero else {}
        self._write(trainer, pl_module, "running")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the first step; a resumed run does not start at 0."""
        self.first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts epochs."""
        self.num_epochs += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the metrics on held-out data."""
        if not trainer.sanity_checking:
            metrics, self.measured_step = trainer.callback_metrics, trainer.global_step
            self.metrics = {n.removeprefix("val/"): float(v) for n, v in metrics.items() if n.startswith("val/")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the progress of the run."""
        self._write(trainer, pl_module, "running")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a model without training is exported.

        Raises:
            UserError: If no step was taken, or the last step was not evaluated.
        """
        self._check(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records that the run is complete.

        Raises:
            UserError: If Lightning has skipped the training, so that the run is not complete.
        """
        try:
            self._check(trainer)
        except UserError:
            self._write(trainer, pl_module, "failed")
            raise
        self._write(trainer, pl_module, "finished" if self.metrics or not trainer.enable_validation else "stopped")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Records that the run was interrupted, has diverged or has failed."""
        self._write(trainer, pl_module, status_of(exception))

    def state_dict(self) -> dict[str, object]:
        """Returns the last metrics and the seconds so far, which belong to the weights."""
        return {"metrics": self.metrics, "measured_step": self.measured_step, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them; a run that was stopped after its last evaluation gets no other metrics."""
        self.metrics, self.measured_step = state_dict["metrics"], state_dict["measured_step"]
        self.seconds_before = state_dict["seconds"]

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.start

    def _check(self, trainer: Trainer) -> None:
        if not trainer.global_step or (self.num_epochs and trainer.global_step == self.first_step):
            raise UserError(
                f"{self.stage}: no step was taken, so nothing was trained: give it rows and epochs to train on "
                f"(max_epochs={trainer.max_epochs}, limit_train_batches={trainer.limit_train_batches})"
            )
        # An alarm or max_time may stop a run before the next evaluation.
        if trainer.enable_validation and self.measured_step != trainer.global_step and not trainer.should_stop:
            raise UserError(
                f"{self.stage}: the weights of step {trainer.global_step} were not evaluated, so result.json would not "
                "describe them: continue from a checkpoint written earlier in the epoch, or after its evaluation"
            )

    def _write(self, trainer: Trainer, module: LightningModule, status: str) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_json(
            folder / "result.json",
            {
                "stage": self.stage,
                "status": status,
                "metrics": self.metrics,
                "model_dir": str(folder / "model") if status in ("finished", "stopped") else None,
                **({"resumed_from": str(trainer.ckpt_path)} if trainer.ckpt_path else {}),
                "seconds": round(self._seconds(), 3),
                "peak_bytes": peak_bytes(module.device),
                "peak_of": peak_of(module.device),
                "versions": versions(),
                "seed": self.seed,
                **self.facts,
                **health_record(trainer),
                **checks_record(trainer),
                **best_record(trainer),
            },
        )


def status_of(error: BaseException) -> str:
    """Returns the status of a run that an error has ended."""
    if interruption_behind(error):
        return "interrupted"
    return "diverged" if isinstance(error, NotFiniteError) else "failed"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
