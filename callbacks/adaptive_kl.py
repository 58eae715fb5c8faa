"""Keeps the KL to the reference near a target."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.ops.kl import adaptive_kl_coef


class AdaptiveKL(RLHFCallback):
    """Adapts `kl_coef` after each rollout; without this callback, `kl_coef` is fixed.

    The new value applies from the next rollout on, to a penalty in the rewards and to one in the loss. The updates of
    an iteration use the value with which its experience was made.
    """

    def __init__(self, target: float = 6.0, horizon: float = 10_000) -> None:
        """Stores the target.

        Args:
            target: The desired KL, in nats per response.
            horizon: The number of responses over which `kl_coef` adapts; a smaller number is faster.

        Raises:
            UserError: If one of them is not positive.
        """
        if not (target > 0 and horizon > 0):
            raise UserError(f"adaptive KL: target={target} and horizon={horizon} must be positive")
        self.target, self.horizon = target, horizon

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Adapts `kl_coef` to the measured KL."""
        module.kl_coef = adaptive_kl_coef(
            module.kl_coef,
            rollout.metrics["kl"],
            target=self.target,
            horizon=self.horizon,
            num_episodes=len(rollout.scores),
        )
