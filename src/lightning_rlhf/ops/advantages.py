"""Advantage estimators and their registry. To add an estimator, decorate a function with `estimator`.

Shapes: B rows, R response tokens, G responses to a prompt, which are adjacent rows.
Masks are True on response tokens, which are aligned at the left.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Trajectories(NamedTuple):
    """The input of an estimator."""

    rewards: Tensor
    """(B, R) rewards: the score of a response at its last token, plus the scores of single tokens at those tokens, plus
    the KL penalty at each token if the penalty is in the rewards."""
    mask: Tensor
    """(B, R) response mask."""
    scores: Tensor
    """(B,) score of each response as a whole, after shaping; the rewards contain it already."""
    token_scores: Tensor
    """(B, R) scores of single tokens, 0 where there is none; the rewards contain them already."""
    group_size: int = 1
    """G, the number of responses to each prompt."""
    values: Tensor | None = None
    """(B, R) values of the critic, if the estimator needs a critic."""
    greedy_scores: Tensor | None = None
    """(B,) score of the greedy response to the prompt of the row, including the scores of its tokens, if the estimator
    needs it."""


class Advantages(NamedTuple):
    """The output of an estimator."""

    advantages: Tensor
    """(B, R) advantages, zero outside the mask."""
    returns: Tensor | None = None
    """(B, R) targets of the critic, zero outside the mask."""


Estimate = Callable[..., Advantages]
"""Takes `Trajectories`; its keyword-only parameters are its settings: `gamma`, `gae_lambda`, or options of its own."""


class Estimator(NamedTuple):
    """An estimator and its needs."""

    estimate: Estimate
    critic: bool
    """Whether it needs the values of a critic; otherwise no critic is built."""
    group: bool
    """Whether it needs several responses to each prompt."""
    greedy: bool
    """Whether it needs the score of a greedy response to each prompt."""
    whiten: bool
    """Whether its advantages are whitened over all tokens of the iteration."""


ESTIMATORS: dict[str, Estimator] = {}
"""Estimators by name."""


def estimator(
    name: str, *, critic: bool = False, group: bool = False, greedy: bool = False, whiten: bool = False
) -> Callable[[Estimate], Estimate]:
    """Registers a function as an estimator with the given needs (see `Estimator`)."""

    def register(function: Estimate) -> Estimate:
        ESTIMATORS[name] = Estimator(function, critic, group, greedy, whiten)
        return function

    return register


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Computes generalized advantage estimates (GAE); a response ends in a state of value 0.

    delta_t = r_t + gamma · V_{t+1} - V_t, A_t = delta_t + gamma · lambda · A_{t+1}, returns = A + V.
    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016),
    equation 16.

    Args:
        rewards: (B, R) rewards.
        values: (B, R) value estimates of the states in which each token was chosen.
        mask: (B, R) response mask. Tokens between response tokens where it is False, such as the output of a tool, are
            skipped: the response token before them is followed by the response token after them.
        gamma: Discount factor.
        gae_lambda: Weight between one-step estimates (0) and whole returns (1).

    Returns:
        Advantages (not whitened) and returns, both (B, R), zero outside the mask.
    """
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    advantages = []
    for reward, value, counts in zip(*(reversed(x.unbind(dim=1)) for x in (rewards, values, mask)), strict=True):
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages.append(torch.where(counts, advantage, 0))
        next_value = torch.where(counts, value, next_value)
        next_advantage = torch.where(counts, advantage, next_advantage)
    stacked = torch.stack(advantages[::-1], dim=1)
    return stacked, torch.where(mask, stacked + values, 0)


def returns_to_go(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Sums the discounted rewards from each token to the end of the response.

    Args:
        rewards: (B, R) rewards.
        mask: (B, R) response mask.
        gamma: Discount factor.

    Returns:
        (B, R) returns, zero outside the mask.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, gae_lambda=1.0)[0]


def group_means(values: Tensor, group_size: int) -> Tensor:
    """Returns the mean over the group of each row, (B,)."""
    return values.view(-1, group_size).mean(1).repeat_interleave(group_size)


def group_stds(values: Tensor, group_size: int) -> Tensor:
    """Returns the sample standard deviation over the group of each row, (B,)."""
    return values.view(-1, group_size).std(1).repeat_interleave(group_size)


def _on_tokens(advantages: Tensor, mask: Tensor) -> Advantages:
    """Gives all tokens of a response the same advantage, from one number for each response (B,)."""
    return Advantages(torch.where(mask, advantages[:, None], 0))


def _totals(trajectories: Trajectories) -> Tensor:
    """Sums the rewards of each response, (B,)."""
    return torch.where(trajectories.mask, trajectories.rewards, 0).sum(1)


@estimator("gae", critic=True, whiten=True)
def gae_advantages(trajectories: Trajectories, *, gamma: float, gae_lambda: float) -> Advantages:
    """Computes `gae` with the values of the critic (PPO)."""
    assert trajectories.values is not None
    rewards, values, mask = trajectories.rewards, trajectories.values, trajectories.mask
    return Advantages(*gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda))


@estimator("grpo", group=True)
def grpo_advantages(trajectories: Trajectories) -> Advantages:
    """Measures the distance of a response to the mean of its group, in standard deviations of the group.

    Source: Shao et al., "DeepSeekMath" (2024), section 4.1.2. The standard deviation is the sample standard deviation.
    """
    totals, size = _totals(trajectories), trajectories.group_size
    return _on_tokens((totals - group_means(totals, size)) / (group_stds(totals, size) + 1e-4), trajectories.mask)


@estimator("grpo_no_std", group=True)
def grpo_no_std_advantages(trajectories: Trajectories) -> Advantages:
    """Measures the distance of a response to the mean of its group, which is not divided by the standard deviation.

    Questions that are too easy or too hard therefore do not count more than others.

    Source: Liu et al., "Understanding R1-Zero-Like Training" (2025), Dr. GRPO.
    """
    totals = _totals(trajectories)
    return _on_tokens(totals - group_means(totals, trajectories.group_size), trajectories.mask)


@estimator("rloo", group=True)
def rloo_advantages(trajectories: Trajectories) -> Advantages:
    """Measures the distance of a response to the mean of the other responses of its group.

    Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization" (2024).
    """
    totals, size = _totals(trajectories), trajectories.group_size
    # R_i - (S - R_i) / (G - 1) = (R_i - S / G) · G / (G - 1)
    return _on_tokens((totals - group_means(totals, size)) * (size / (size - 1)), trajectories.mask)


@estimator("reinforce_pp", whiten=True)
def reinforce_pp_advantages(trajectories: Trajectories, *, gamma: float) -> Advantages:
    """Computes returns to go, which are whitened over the whole iteration.

    Source: Hu, "REINFORCE++" (2025).
    """
    return Advantages(returns_to_go(trajectories.rewards, trajectories.mask, gamma=gamma))


@estimator("reinforce_pp_baseline", group=True, whiten=True)
def reinforce_pp_baseline_advantages(trajectories: Trajectories, *, gamma: float) -> Advantages:
    """Computes returns to go minus the mean of the group, which are whitened over the whole iteration.

    Source: Hu, "REINFORCE++" (2025), REINFORCE++-baseline.
    """
    returns = returns_to_go(trajectories.rewards, trajectories.mask, gamma=gamma)
    baseline = group_means(_totals(trajectories), trajectories.group_size)
    return Advantages(torch.where(trajectories.mask, returns - baseline[:, None], 0))


@estimator("remax", greedy=True)
def remax_advantages(trajectories: Trajectories, *, gamma: float) -> Advantages:
    """Computes returns to go minus the score of the greedy response to the same prompt.

    Source: Li et al., "ReMax" (2023), algorithm 1.
    """
    assert trajectories.greedy_scores is not None
    returns = returns_to_go(trajectories.rewards, trajectories.mask, gamma=gamma)
    return Advantages(torch.where(trajectories.mask, returns - trajectories.greedy_scores[:, None], 0))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Computes the share of the variance of the returns that the critic predicted.

    A perfect critic has 1, and a critic that is no better than a constant has 0.

    Args:
        values: (B, R) predictions of the critic.
        returns: (B, R) actual returns.
        mask: (B, R) response mask.
    """
    predicted, actual = values[mask], returns[mask]
    return 1 - (actual - predicted).var(correction=0) / actual.var(correction=0).clamp(min=1e-8)
