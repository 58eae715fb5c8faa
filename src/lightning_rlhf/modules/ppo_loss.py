"""The loss of a PPO update.

Shapes: B rows, R response tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.errors import raise_problems
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.modules.importance import Importance
from lightning_rlhf.ops.aggregation import AGGREGATIONS
from lightning_rlhf.ops.losses import (
    POLICY_LOSSES,
    PolicyBatch,
    PolicyLossFunction,
    TokenLosses,
    ppo_value_loss,
    weighted_policy_loss,
)
from lightning_rlhf.ops.masked import masked_sum
from lightning_rlhf.registry import arguments, option_problems, registered
from lightning_rlhf.rollout.dataset import Minibatch


class Terms(NamedTuple):
    """A loss and its metrics by name; all are scalars."""

    loss: Tensor
    sums: dict[str, Tensor]
    """Shares of this part in metrics of the whole minibatch, which add up over its parts."""
    means: dict[str, Tensor]
    """Metrics of this part."""


@dataclass(frozen=True, kw_only=True)
class PPOLoss:
    """The policy loss, together with value loss, entropy bonus and KL penalty.

    Attributes:
        policy: Name of a policy loss in `ops.losses`, or `module:name` for one that a module of yours registers.
        options: Settings that only this policy loss has.
        aggregation: How the losses of tokens are combined into one loss.
        clip_range: The ratio is clipped to at least 1 - clip_range.
        clip_range_high: The ratio is clipped to at most 1 + clip_range_high; None stands for `clip_range`.
        clip_range_value: How far a value may move within an iteration.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        importance: Corrects the policy loss for an engine that does not equal the scorer; None for no correction.
    """

    policy: str = "clipped"
    options: Mapping[str, object] = field(default_factory=dict)
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    clip_range: float = 0.2
    clip_range_high: float | None = None
    clip_range_value: float = 0.2
    vf_coef: float = 0.1
    ent_coef: float = 0.0
    importance: Importance | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        high = self.clip_range_high
        problems = [
            f"{name}={value}: must {rule}"
            for name, value, holds, rule in [
                (
                    "aggregation",
                    self.aggregation,
                    self.aggregation in AGGREGATIONS,
                    f"be one of {', '.join(AGGREGATIONS)}",
                ),
                ("clip_range", self.clip_range, 0 < self.clip_range < 1, "lie in (0, 1)"),
                ("clip_range_high", high, high is None or high > 0, "be positive"),
                ("clip_range_value", self.clip_range_value, self.clip_range_value > 0, "be positive"),
                ("vf_coef", self.vf_coef, self.vf_coef >= 0, "not be negative"),
                ("ent_coef", self.ent_coef, isfinite(self.ent_coef), "be finite"),
            ]
            if not holds
        ]
        token = torch.zeros(1, 1)
        example = PolicyBatch(token, token, token, token == 0)
        chosen = f"policy={self.policy}"
        raise_problems([*problems, *option_problems(chosen, self._function, self._shared, self.options, example)])

    @property
    def policy_loss(self) -> Callable[[PolicyBatch], TokenLosses]:
        """The policy loss, with its settings filled in."""
        return partial(self._function, **arguments(self._function, self._shared, self.options))

    @property
    def _function(self) -> PolicyLossFunction:
        return registered(POLICY_LOSSES, self.policy, "policy")

    @property
    def _shared(self) -> dict[str, float | None]:
        """The settings that several policy losses have in common."""
        return {"clip_range": self.clip_range, "clip_range_high": self.clip_range_high}

    def __call__(
        self,
        new: TokenStats,
        values: Tensor | None,
        batch: Minibatch,
        kl_loss: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> Terms:
        """Computes the share of a part of a minibatch in the loss.

        Args:
            new: Log-probs under the current actor, and its entropies, which only a bonus needs.
            values: (B, R) values of the current critic, if there is a critic.
            batch: The part of the minibatch.
            kl_loss: The estimator of the KL penalty, if the penalty is in the loss.

        Returns:
            The loss of the part, and its metrics.
        """
        old, mask = batch.experience, batch.experience.sequences.response_mask
        weights = AGGREGATIONS[self.aggregation](mask, batch.size)
        inputs = PolicyBatch(new.logprobs, old.old_logprobs, old.advantages, mask)
        factors, corrections = (1.0, {}) if self.importance is None else self.importance(old)
        policy = weighted_policy_loss(self.policy_loss(inputs), mask, weights * factors)
        loss, sums = policy.loss, {"policy_loss": policy.loss}
        if new.entropy is not None:
            sums["entropy"] = masked_sum(new.entropy, mask) / batch.size.num_tokens
            loss = loss - self.ent_coef * sums["entropy"]
        means = {"approx_kl": policy.approx_kl, "clip_fraction": policy.clip_fraction, **corrections}
        if values is not None:
            assert old.old_values is not None
            assert old.returns is not None
            value = ppo_value_loss(
                values,
                old.old_values,
                old.returns,
                mask,
                clip_range_value=self.clip_range_value,
                weights=1 / batch.size.num_tokens,
            )
            loss = loss + self.vf_coef * value.loss
            sums["value_loss"], means["value_clip_fraction"] = value.loss, value.clip_fraction
        if kl_loss:
            # The mask is applied before the estimator: where a weight is 0, the gradient of NaN is still NaN.
            kl = kl_loss(new.logprobs.where(mask, 0), old.ref_logprobs.where(mask, 0))
            sums["kl_loss"] = (kl * weights).sum()
            loss = loss + (old.kl_coef * kl * weights).sum()
        return Terms(loss, sums, means)
