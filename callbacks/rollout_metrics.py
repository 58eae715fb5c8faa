"""Logs score, KL, length, entropy and other metrics of rollouts."""

from lightning.pytorch import LightningModule, Trainer

from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback


class RolloutMetrics(RLHFCallback):
    """Logs the metrics of each rollout as `rollout/…`, together with those of the following update."""

    def __init__(self) -> None:
        """Starts without metrics."""
        self.metrics: dict[str, float] = {}

    def on_rollout_end(self, trainer: Trainer, module: LightningModule, rollout: Rollout) -> None:
        """Stores the metrics, because Lightning cannot log during a rollout, when it requests a batch."""
        self.metrics = {f"rollout/{name}": value for name, value in rollout.metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the metrics of the last rollout."""
        pl_module.log_dict(self.metrics, sync_dist=True)

    def state_dict(self) -> dict[str, object]:
        """Returns the metrics of the last rollout; a run that resumes within an iteration logs them at its end."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, dict[str, float]]) -> None:
        """Restores the metrics from a checkpoint."""
        self.metrics = state_dict["metrics"]
