"""Credit assignment: computes advantages and returns from the samples of all ranks.

Shapes: B rows, R response tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.experience import Experience
from lightning_rlhf.ops.advantages import ESTIMATORS, Advantages, Estimator, Trajectories
from lightning_rlhf.ops.kl import KL_IN_LOSS, KL_IN_REWARD
from lightning_rlhf.ops.masked import masked_unit_variance, masked_whiten
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.ops.rewards import shape_rewards
from lightning_rlhf.registry import arguments, option_problems, registered
from lightning_rlhf.rollout.collect import Samples
from lightning_rlhf.rollout.shaping import RewardShaping, shape_scores


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Settings of credit assignment.

    Attributes:
        advantage: Name of an estimator in `ops.advantages`, or `module:name` for one that a module of yours registers.
        options: Settings that only this estimator has.
        gamma: Discount factor; passed to estimators that declare it.
        gae_lambda: Weight of GAE between one-step estimates (0) and whole returns (1); passed to estimators that
            declare it.
        kl_in: Where the KL penalty is applied: to the rewards of the tokens, or to the loss.
        kl_estimator: Estimator of the KL: k1, k2 or k3 in the rewards; k2, k3 or k3+ in the loss.
        shaping: How scores and rewards are transformed.
        num_samples_per_prompt: Size of a group: the number of responses to each prompt.
    """

    advantage: str = "gae"
    options: Mapping[str, object] = field(default_factory=dict)
    gamma: float = 1.0
    gae_lambda: float = 0.95
    kl_in: Literal["reward", "loss"] = "reward"
    kl_estimator: str = "k1"
    shaping: RewardShaping = field(default_factory=RewardShaping)
    num_samples_per_prompt: int = 1

    def __post_init__(self) -> None:
        """Checks the values."""
        known = {"reward": KL_IN_REWARD, "loss": KL_IN_LOSS}.get(self.kl_in)
        if known is None:
            raise UserError(f"kl_in={self.kl_in}: must be one of reward, loss")
        problems = [
            f"{name}={value}: must lie in [0, 1]"
            for name, value in [("gamma", self.gamma), ("gae_lambda", self.gae_lambda)]
            if not 0 <= value <= 1
        ]
        if self.kl_estimator not in known:
            because = " (k1 has no gradient on average)" if self.kl_estimator == "k1" else ""
            problems.append(
                f"kl_estimator={self.kl_estimator} with kl_in={self.kl_in}: expected one of {', '.join(known)}{because}"
            )
        if self.num_samples_per_prompt < 1:
            problems.append(f"num_samples_per_prompt={self.num_samples_per_prompt}: must be positive")
        elif self.estimator.group and self.num_samples_per_prompt < 2:
            problems.append(
                f"num_samples_per_prompt={self.num_samples_per_prompt}: advantage={self.advantage} compares the "
                "responses to one prompt, so it needs at least 2"
            )
        chosen = f"advantage={self.advantage}"
        example = _example(max(self.num_samples_per_prompt, 2))
        function = self.estimator.estimate
        raise_problems([*problems, *option_problems(chosen, function, self._shared, self.options, example)])

    @property
    def kl_loss(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The estimator of the KL penalty, if the penalty is in the loss; otherwise None."""
        return KL_IN_LOSS[self.kl_estimator] if self.kl_in == "loss" else None

    @property
    def estimator(self) -> Estimator:
        """The advantage estimator.

        Raises:
            UserError: If no estimator has this name.
        """
        return registered(ESTIMATORS, self.advantage, "advantage")

    def estimate(self, trajectories: Trajectories) -> Advantages:
        """Estimates advantages with the settings of the estimator; does not whiten them.

        Args:
            trajectories: The responses of an iteration, with their rewards.
        """
        function = self.estimator.estimate
        return function(trajectories, **arguments(function, self._shared, self.options))

    @property
    def _shared(self) -> dict[str, float]:
        """The settings that several estimators have in common."""
        return {"gamma": self.gamma, "gae_lambda": self.gae_lambda}


def _example(group_size: int) -> Trajectories:
    """Makes responses of one token to one prompt, on which an estimator is tried out."""
    tokens, scores = torch.zeros(group_size, 1), torch.zeros(group_size)
    return Trajectories(tokens, tokens == 0, scores, tokens, group_size, values=tokens, greedy_scores=scores)


def to_experience(
    samples: Samples, credit: Credit, *, kl_coef: float, moments: Moments, max_length: int
) -> tuple[Experience, dict[str, float]]:
    """Computes advantages and returns from the samples of all ranks.

    Args:
        samples: The samples of all ranks; the responses to one prompt are adjacent.
        credit: Settings of credit assignment.
        kl_coef: Weight of the KL penalty.
        moments: Moments of the scores of all whole responses of the run, including these samples.
        max_length: Length limit of a response, in tokens. The tensors may be narrower, since they may be trimmed.

    Returns:
        The experience, and metrics of its rewards.
    """
    mask = samples.sequences.response_mask

    def shaped(scores: Tensor, lengths: Tensor, finished: Tensor) -> Tensor:
        return shape_scores(scores, lengths, finished, credit.shaping, moments=moments, max_length=max_length)

    scores = samples.scores._replace(whole=shaped(samples.scores.whole, mask.sum(1), samples.finished))
    if credit.kl_in == "reward":
        kl = KL_IN_REWARD[credit.kl_estimator](samples.logprobs, samples.ref_logprobs)
    else:
        kl = torch.zeros_like(samples.logprobs)
    rewards = shape_rewards(scores.whole, kl, mask, kl_coef=kl_coef, token_scores=scores.tokens)
    if credit.shaping.whiten:
        rewards = masked_unit_variance(rewards, mask)
    greedy = samples.greedy
    trajectories = Trajectories(
        rewards,
        mask,
        scores.whole,
        torch.zeros_like(rewards) if scores.tokens is None else scores.tokens,
        credit.num_samples_per_prompt,
        samples.values,
        None if greedy is None else shaped(greedy.scores, greedy.lengths, greedy.finished) + greedy.token_scores,
    )
    advantages, returns = credit.estimate(trajectories)
    if credit.estimator.whiten:
        advantages = masked_whiten(advantages, mask)
    experience = Experience(
        samples.sequences,
        samples.logprobs,
        samples.ref_logprobs,
        advantages,
        samples.values,
        returns,
        torch.full_like(samples.logprobs[:, :1], kl_coef),
        samples.sampler_logprobs,
        samples.weights_version,
    )
    metrics = {"reward_mean": float(rewards.sum(1).mean())}
    if credit.num_samples_per_prompt > 1:
        groups = scores.total.view(-1, credit.num_samples_per_prompt)
        metrics["zero_variance_groups"] = float((groups.amax(1) == groups.amin(1)).float().mean())
    return experience, metrics
