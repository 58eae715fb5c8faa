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


def response_mask(lengths: Tensor, width: int) -> Tensor:
    """Marks the tokens of responses, the stop token included.

    Args:
        lengths: (B,) tokens of each response.
        width: R, the columns that there are.

    Returns:
        (B, R) bool.
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def used_columns(mask: Tensor) -> slice:
    """The columns from the first to the last one that any row uses; at least one.

    Args:
        mask: (B, T) bool.
    """
    used = mask.any(dim=0).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
