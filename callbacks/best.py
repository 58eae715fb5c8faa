"""Keeps the best weights of a run, and stops a run that gets no better."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_rlhf.callbacks.export import write_exports
from lightning_rlhf.callbacks.normalize_reward import NormalizeReward
from lightning_rlhf.console import number
from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)

# What a stage is judged by if the user names nothing: the first of these that it has.
_MONITORS = ("val/score", "val/reward_accuracy", "val/loss")
# Of metrics with these endings, the lowest value is the best.
_LOWER_IS_BETTER = ("loss", "perplexity", "error", "kl")


class Best(Callback):
    """Exports the weights of the best evaluation as `model_best/`, beside the last weights in `model/`.

    The export is written when an evaluation is better than all before, so it survives whatever happens to the run. A
    reward model has the same scale as at the end: each export is normalised on the samples of `NormalizeReward`.
    """

    def __init__(
        self,
        stage: str,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        patience: int | None = None,
        sampling: Mapping[str, object] | None = None,
    ) -> None:
        """Stores what is best.

        Args:
            stage: Name of the stage, for the manifest.
            monitor: The metric on held-out data, such as `val/loss`. None takes `val/score` (PPO),
                `val/reward_accuracy` (reward model, DPO) or `val/loss`.
            mode: Whether the lowest (`min`) or the highest (`max`) value is the best. None takes the lowest of a loss,
                perplexity, error or KL, and the highest of anything else.
            patience: The number of evaluations in a row without a new best after which the run stops; None never stops.
            sampling: The sampling distribution that the export names; see `export_model`.

        Raises:
            UserError: If `mode` or `patience` is impossible.
        """
        if mode not in (None, "min", "max"):
            raise UserError(f"callbacks.best.mode={mode}: must be min, max, or null to choose by the metric")
        if patience is not None and patience < 1:
            raise UserError(f"callbacks.best.patience={patience}: must be at least 1, or null to never stop")
        self.stage, self.mode, self.patience, self.sampling = stage, mode, patience, sampling
        self.monitor = monitor if monitor is None or monitor.startswith("val/") else f"val/{monitor}"
        self.value: float | None = None
        self.epoch = self.step = self.misses = 0
        self.folder: Path | None = None
        self.stopped: str | None = None
        self.is_new = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the export of an earlier run along, if this run continues it in another folder."""
        folder = Path(trainer.default_root_dir) / "model_best"
        if self.folder is not None and trainer.is_global_zero and self.folder != folder:
            for earlier in self.folder.parent.glob("*_best"):
                shutil.copytree(earlier, folder.with_name(earlier.name), dirs_exist_ok=True)
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares an evaluation with the best one before.

        Raises:
            UserError: If the stage has no such metric.
        """
        if trainer.sanity_checking:
            return
        value = self._monitored(trainer.callback_metrics)
        sign = -1 if self._lower_is_better() else 1
        # The metrics are those of all processes, so all processes decide alike.
        self.is_new = sign * value > (-inf if self.value is None else sign * self.value)
        if self.is_new:
            self.value, self.epoch, self.step, self.misses = value, trainer.current_epoch + 1, trainer.global_step, 0
            return
        self.misses += 1
        if self.patience is not None and self.misses >= self.patience:
            trainer.should_stop = True
            verb = "fallen below" if self._lower_is_better() else "risen above"
            assert self.value is not None
            self.stopped = f"{self.monitor} has not {verb} {number(self.value)} in {self.misses} evaluations"
            if trainer.is_global_zero:
                log.info("best: %s, so the run stops after step %d", self.stopped, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: object, batch_idx: int) -> None:
        """Exports the weights of an evaluation within an epoch before a step changes them."""
        self._export(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Exports the weights of the evaluation at the end of an epoch."""
        self._export(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says which weights are where."""
        if trainer.is_global_zero and self.value is not None:
            log.info("best: %s", self._about())

    def _export(self, trainer: Trainer, module: Any) -> None:
        """Writes the export, outside of the evaluation, during which some strategies forbid what it needs."""
        if not self.is_new:
            return
        self.is_new = False
        facts = {"weights": "best", "monitor": self.monitor, "value": self.value}
        with ExitStack() as stack:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, NormalizeReward):
                    stack.enter_context(callback.normalized(trainer, module))
            write_exports(trainer, module, self.stage, self.sampling, ending="_best", facts=facts)

    def _monitored(self, metrics: Mapping[str, Any]) -> float:
        if self.monitor is None:
            self.monitor = next((name for name in _MONITORS if name in metrics), _MONITORS[-1])
        if self.monitor not in metrics:
            known = ", ".join(sorted(name for name in metrics if name.startswith("val/")))
            raise UserError(f"callbacks.best.monitor={self.monitor}: {self.stage} has no such metric; it has {known}")
        return float(metrics[self.monitor])

    def _lower_is_better(self) -> bool:
        return str(self.monitor).endswith(_LOWER_IS_BETTER) if self.mode is None else self.mode == "min"

    def record(self) -> dict[str, object]:
        """Returns the entry of `result.json`."""
        return {
            "monitor": self.monitor,
            "mode": "min" if self._lower_is_better() else "max",
            "value": self.value,
            "epoch": self.epoch,
            "step": self.step,
            "model_dir": str(self.folder),
            "about": self._about(),
            **({"stopped": self.stopped} if self.stopped else {}),
        }

    def _about(self) -> str:
        """Says which weights are where, for the terminal and the run card."""
        extreme = "lowest" if self._lower_is_better() else "highest"
        return (
            f"model/ has the last weights, and model_best/ those of step {self.step} (epoch {self.epoch}), where "
            f"{self.monitor} was {extreme}: {'unknown' if self.value is None else number(self.value)}"
        )

    def state_dict(self) -> dict[str, object]:
        """Returns the best evaluation so far, and where its export is."""
        return self.record() | {"misses": self.misses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best evaluation."""
        self.value, self.epoch, self.step = state_dict["value"], state_dict["epoch"], state_dict["step"]
        self.monitor, self.misses = state_dict["monitor"] or self.monitor, state_dict["misses"]
        self.folder = Path(state_dict["model_dir"])


def best_record(trainer: Trainer) -> dict[str, Any]:
    """Returns the entries of `result.json` about the best weights, if the run keeps them and has found some."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Best) and callback.value is not None:
            return {"best": callback.record()}
    return {}
