"""The importance correction of PPO's policy loss, for engines that do not equal the scorer."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_rlhf.errors import raise_problems
from lightning_rlhf.experience import Experience
from lightning_rlhf.ops.importance import LEVELS, truncated_importance


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Settings of truncated importance sampling.

    Attributes:
        level: What has a ratio of its own: each `token`, or each response as a whole (`sequence`).
        ceiling: The largest ratio by which a loss is multiplied.
    """

    level: Literal["token", "sequence"] = "token"
    ceiling: float = 2.0

    def __post_init__(self) -> None:
        """Checks the values."""
        raise_problems(
            f"importance.{name}={value}: must {rule}"
            for name, value, holds, rule in [
                ("level", self.level, self.level in LEVELS, f"be one of {', '.join(LEVELS)}"),
                ("ceiling", self.ceiling, self.ceiling >= 1, "be at least 1"),
            ]
            if not holds
        )

    def __call__(self, experience: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the factors of the policy losses of a part of a minibatch.

        Args:
            experience: The part, with the log-probs of the engine and those of the actor before the update.

        Returns:
            (B, R) factors without gradients, and metrics by name.
        """
        found = truncated_importance(
            experience.old_logprobs,
            experience.sampler_logprobs,
            experience.sequences.response_mask,
            level=self.level,
            ceiling=self.ceiling,
        )
        metrics = {"importance_mean": found.mean, "importance_max": found.max, "importance_clipped": found.clipped}
        return found.weights, metrics
