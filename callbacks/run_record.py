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
from lightning_rlhf.saving import appearing

_PACKAGES = ("lightning-rlhf", "torch", "lightning", "transformers", "hydra-core", "datasets", "peft", "wandb")


class RunRecord(Callback):
    """Keeps `result.json` in the run folder true: running, finished, interrupted or failed."""

    def __init__(self, stage: str, seed: int) -> None:
        """Takes what the record says.

        Args:
            stage: Name of the stage.
            seed: Of the run.
        """
        self.stage, self.seed = stage, seed
        self.start = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says that the run has begun."""
        self.start = time.perf_counter()
        self._write(trainer, pl_module, "running")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how far it has come."""
        self._write(trainer, pl_module, "running")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says that it is whole."""
        self._write(trainer, pl_module, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says that it is not."""
        self._write(trainer, pl_module, "interrupted" if isinstance(exception, KeyboardInterrupt) else "failed")

    def _write(self, trainer: Trainer, module: LightningModule, status: str) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        metrics = {
            name.removeprefix("val/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        write_json(
            folder / "result.json",
            {
                "stage": self.stage,
                "status": status,
                "metrics": metrics,
                "model_dir": str(folder / "model") if status == "finished" else None,
                "seconds": round(time.perf_counter() - self.start, 3),
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one step: a reader sees the old one or the new one, never a part."""
    with appearing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
