"""Rewards of tokens, computed from scores.

Shapes: B rows, R response tokens. Masks are True on response tokens, which are aligned at the left.
"""

import torch
from torch import Tensor


def last_token_index(mask: Tensor) -> Tensor:
    """Finds the index of the last True in each row; the index of a row without any True is 0.

    Args:
        mask: (B, T) bool.

    Returns:
        (B,) int64 indices.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, 0).amax(dim=1)


def shape_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float, token_scores: Tensor | None = None
) -> Tensor:
    """Adds the score at the last response token, the scores of single tokens, and the KL penalty at every token.

    r_t = -kl_coef · kl_t + token_score_t + [t is the last token] · score. Source: Ziegler et al. (2019), equation 2;
    Stiennon et al., "Learning to summarize from human feedback" (2020). Scores of tokens follow Lightman et al., "Let's
    Verify Step by Step" (2023), whose model scores each step, and Wang et al., "Math-Shepherd" (2024), which gives PPO
    the score of each step at the end of the step.

    Args:
        scores: (B,) score of each whole response.
        kl: (B, R) estimate of KL(actor || reference) at each token, in nats.
        mask: (B, R) response mask.
        kl_coef: Weight of the penalty.
        token_scores: (B, R) scores of single tokens, if there are any.

    Returns:
        (B, R) rewards, zero outside the mask. A row without a response token gets no score.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0)
    if token_scores is not None:
        rewards = rewards + torch.where(mask, token_scores.to(rewards.dtype), 0)
    at_last = torch.zeros_like(rewards).scatter(1, last_token_index(mask)[:, None], scores[:, None].to(rewards.dtype))
    return rewards + torch.where(mask, at_last, 0)


def overlong_penalty(lengths: Tensor, *, max_length: int, buffer: int) -> Tensor:
    """Penalizes responses that come near the length limit: 0 before the buffer, then falling linearly to -1.

    Source: Yu et al., "DAPO" (2025), equation 13.

    Args:
        lengths: (B,) lengths of the responses, in tokens.
        max_length: Length limit, in tokens.
        buffer: Number of tokens before the limit over which the penalty grows; at least 1.

    Returns:
        (B,) penalties between -1 and 0.
    """
    return ((max_length - buffer - lengths) / buffer).clamp(min=-1, max=0)
