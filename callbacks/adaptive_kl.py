"""Keeps the KL to the reference near a target."""

from typing import Any

from lightning.pytorch import Trainer

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.ops.kl import adaptive_kl_coef


class AdaptiveKL(RLHFCallback):
    """Moves `kl_coef` after each rollout; without it the weight is fixed.

    The new weight holds from the next rollout on, for a penalty in the rewards and for one in the loss: the updates of
    an iteration take the weight with which its experience was made.
    """

    def __init__(self, target: float = 6.0, horizon: float = 10_000) -> None:
        """Takes the aim.

        Args:
            target: KL to keep, in nats a response.
            horizon: Responses over which the weight adapts; the smaller, the faster.

        Raises:
            UserError: If one of them is not positive.
        """
        if target <= 0 or horizon <= 0:
            raise UserError(f"adaptive KL: target={target} and horizon={horizon} must be positive")
        self.target, self.horizon = target, horizon

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Adapts the weight to what was measured."""
        module.kl_coef = adaptive_kl_coef(
            module.kl_coef,
            rollout.metrics["kl"],
            target=self.target,
            horizon=self.horizon,
            num_episodes=len(rollout.scores),
        )
