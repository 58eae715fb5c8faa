"""Carries the logs of a run over to the run that resumes from its checkpoint."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lightning_rlhf.distributed.collectives import gather_objects


class History(Callback):
    """Stores the logs in each checkpoint, so that a resumed run leaves the same logs as an uninterrupted one.

    - The rows of `metrics.csv`; the resumed run starts with them, in the same folder or in another one.
    - The row of the step or epoch that has just ended, because Lightning logs it after it writes the checkpoint.
    - The sums over all ranks behind the means of an unfinished epoch, because Lightning would start them again.
    """

    def __init__(self) -> None:
        """Starts without sums."""
        self.sums: dict[str, tuple[float, float]] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Stores the logs in the checkpoint."""
        epoch: Any = trainer.fit_loop.epoch_progress.current
        over = epoch.processed == epoch.started
        checkpoint["history"] = {
            "rows": _csv_text(trainer),
            "last": _last_row(trainer, over=over),
            "sums": {} if over else _sums(trainer),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Logs the rows of the checkpoint again."""
        history = checkpoint.get("history")
        if history is None:
            return
        self.sums = dict(history["sums"])
        # The values stay strings, so that no digit changes.
        rows = list(csv.DictReader(io.StringIO(history["rows"])))
        for logger in trainer.loggers:
            for row in rows if isinstance(logger, CSVLogger) else []:
                metrics: Any = {name: value for name, value in row.items() if value and name != "step"}
                logger.log_metrics(metrics, step=int(row["step"]))
            if history["last"] is not None:
                last = dict(history["last"])
                logger.log_metrics(last, step=last.pop("step"))
            logger.save()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Adds the sums of the epoch before the checkpoint to those after it, as soon as the latter exist."""
        results = trainer.fit_loop.epoch_loop._results
        for key in self.sums.keys() & results.keys():
            value, weight = self.sums.pop(key)
            results[key].value = results[key].value + value / trainer.world_size
            results[key].cumulated_batch_size = results[key].cumulated_batch_size + weight / trainer.world_size


def _csv_text(trainer: Trainer) -> str:
    """Returns the content of `metrics.csv` on the process that writes it, and an empty string on others."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) and trainer.is_global_zero:
            logger.save()
            path = Path(logger.log_dir) / "metrics.csv"
            return path.read_text(encoding="utf-8") if path.is_file() else ""
    return ""


def _last_row(trainer: Trainer, *, over: bool) -> dict[str, float] | None:
    """Returns the row that Lightning is about to log, of the epoch that is over or of the step."""
    # Only this private attribute holds the logged values.
    metrics = trainer.fit_loop.epoch_loop._results.metrics(on_step=not over)["log"]
    if not metrics or not (over or trainer._logger_connector.should_update_logs):
        return None
    row = {name: float(value) for name, value in metrics.items()}
    return row | {"epoch": trainer.current_epoch, "step": trainer.global_step - 1}


def _sums(trainer: Trainer) -> dict[str, tuple[float, float]]:
    """Returns the sum so far and its number of rows, over all ranks, for each mean over the epoch."""
    results = trainer.fit_loop.epoch_loop._results
    mine = {
        key: (float(metric.value), float(metric.cumulated_batch_size))
        for key, metric in results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction
    }
    whole: dict[str, tuple[float, float]] = {}
    for sums in gather_objects([mine]):
        for key, (value, weight) in sums.items():
            before = whole.get(key, (0.0, 0.0))
            whole[key] = (before[0] + value, before[1] + weight)
    return whole
