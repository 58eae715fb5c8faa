"""Logs what a rollout is like: score, KL, length, entropy and so on."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback


class RolloutMetrics(RLHFCallback):
    """Logs the metrics of each rollout as `rollout/…`, beside those of the update that follows it."""

    def __init__(self) -> None:
        """Starts without any."""
        self.metrics: dict[str, float] = {}

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Keeps the metrics: the rollout happens where Lightning cannot log, while it asks for a batch."""
        self.metrics = {f"rollout/{name}": value for name, value in rollout.metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs them."""
        pl_module.log_dict(self.metrics, sync_dist=True)

    def state_dict(self) -> dict[str, object]:
        """The metrics of the last rollout, which a run that goes on in the middle of an iteration logs at its end."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes those of a checkpoint."""
        self.metrics = state_dict["metrics"]
