"""Advantage estimators.

Shapes: B rows, R response tokens. Masks are True on response tokens, which stand at the left.
"""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation; a response ends in a state of value 0.

    delta_t = r_t + gamma · V_{t+1} - V_t, A_t = delta_t + gamma · lambda · A_{t+1}, returns = A + V.
    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016),
    equation 16.

    Args:
        rewards: (B, R).
        values: (B, R) value estimates of the states in which each token was chosen.
        mask: (B, R) response mask.
        gamma: Discount.
        gae_lambda: Weight between one-step estimates (0) and whole returns (1).

    Returns:
        Advantages (not whitened) and returns, both (B, R), zero outside the mask.
    """
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * next_values - values
    advantages, last = [], torch.zeros_like(deltas[:, 0])
    for delta in reversed(deltas.unbind(dim=1)):
        last = delta + gamma * gae_lambda * last
        advantages.append(last)
    stacked = torch.where(mask, torch.stack(advantages[::-1], dim=1), 0)
    return stacked, torch.where(mask, stacked + values, 0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the variance of the returns that the critic foresaw: 1 is perfect, 0 is no better than a constant.

    Args:
        values: (B, R) predictions.
        returns: (B, R) what came.
        mask: (B, R) response mask.
    """
    predicted, actual = values[mask], returns[mask]
    return 1 - (actual - predicted).var(correction=0) / actual.var(correction=0).clamp(min=1e-8)
