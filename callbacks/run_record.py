"""Writes `result.json`: what scripts read of a run."""

import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rlhf.callbacks.health import health_record
from lightning_rlhf.callbacks.throughput import peak_bytes, peak_of
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import appearing

_PACKAGES = ("lightning-rlhf", "torch", "lightning", "transformers", "hydra-core", "datasets", "peft", "wandb")


class RunRecord(Callback):
    """Keeps `result.json` in the run folder true: running, finished, stopped, interrupted or failed.

    A run that an alarm or `max_time` ends before its first evaluation is `stopped`: it has a model, but no metrics.
    """

    def __init__(self, stage: str, seed: int) -> None:
        """Takes what the record says.

        Args:
            stage: Name of the stage.
            seed: Of the run.
        """
        self.stage, self.seed = stage, seed
        self.start = time.perf_counter()
        self.seconds_before = 0.0
        self.metrics: dict[str, float] = {}
        self.measured_step = 0
        self.first_step = 0
        self.num_epochs = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says that the run has begun."""
        self.start = time.perf_counter()
        self._write(trainer, pl_module, "running")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts steps from here: a run that goes on has taken some."""
        self.first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts epochs."""
        self.num_epochs += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps what was measured on held-out data."""
        if not trainer.sanity_checking:
            metrics, self.measured_step = trainer.callback_metrics, trainer.global_step
            self.metrics = {n.removeprefix("val/"): float(v) for n, v in metrics.items() if n.startswith("val/")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far it has come."""
        self._write(trainer, pl_module, "running")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a model is exported that was not trained.

        Raises:
            UserError: If no step was taken, or nothing was measured.
        """
        self._check(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says that it is whole.

        Raises:
            UserError: If it is not, where Lightning has left the training out.
        """
        try:
            self._check(trainer)
        except UserError:
            self._write(trainer, pl_module, "failed")
            raise
        self._write(trainer, pl_module, "finished" if self.metrics or not trainer.enable_validation else "stopped")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says that it is not."""
        self._write(trainer, pl_module, "interrupted" if isinstance(exception, KeyboardInterrupt) else "failed")

    def state_dict(self) -> dict[str, object]:
        """What was measured last, and the seconds so far: they belong to the weights."""
        return {"metrics": self.metrics, "measured_step": self.measured_step, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there; a run that was stopped after its last evaluation has no other."""
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
        # What stops a run early, an alarm or max_time, need not wait for the next evaluation.
        if trainer.enable_validation and self.measured_step != trainer.global_step and not trainer.should_stop:
            raise UserError(
                f"{self.stage}: the weights of step {trainer.global_step} were not evaluated, so result.json would not "
                "be about them: go on from a checkpoint that was written earlier in the epoch, or after its evaluation"
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
                **health_record(trainer),
            },
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: dict[str, object]) -> None:
    """Writes a JSON file in one step: a reader sees the old one or the new one, never a part."""
    with appearing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
