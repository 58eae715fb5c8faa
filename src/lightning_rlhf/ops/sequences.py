"""Masks and positions of token sequences.

Shapes: B rows, P prompt tokens (padded at the left), R response tokens (padded at the right), T = P + R.
"""

import torch
from torch import Tensor


def position_ids(attention_mask: Tensor) -> Tensor:
    """Position of each token among the real ones of its row, so that padding moves nothing; 0 on padding.

    Args:
        attention_mask: (B, T) bool.

    Returns:
        (B, T) int64.
    """
    return torch.where(attention_mask, attention_mask.long().cumsum(1) - 1, 0)


def response_mask(tokens: Tensor, stop_ids: Tensor) -> Tensor:
    """Marks a response up to and including its first stop token.

    Args:
        tokens: (B, R) sampled ids; what follows a stop token is ignored.
        stop_ids: (S,) ids that end a response.

    Returns:
        (B, R) bool.
    """
    is_stop = torch.isin(tokens, stop_ids)
    stops_before = is_stop.long().cumsum(1) - is_stop.long()
    return stops_before == 0


def used_columns(mask: Tensor) -> slice:
    """The columns from the first to the last one that any row uses; at least one.

    Args:
        mask: (B, T) bool.
    """
    used = mask.any(dim=0).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
