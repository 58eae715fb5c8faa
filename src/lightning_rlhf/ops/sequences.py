"""Masks and positions of token sequences.

Shapes: B rows, P prompt tokens (padded at the left), R response tokens (padded at the right), T = P + R.
"""

import torch
from torch import Tensor


def position_ids(attention_mask: Tensor) -> Tensor:
    """Numbers the real tokens of each row from 0, so that padding shifts no position; padding has position 0.

    Args:
        attention_mask: (B, T) bool.

    Returns:
        (B, T) int64 positions.
    """
    return torch.where(attention_mask, attention_mask.long().cumsum(1) - 1, 0)


def response_mask(lengths: Tensor, width: int) -> Tensor:
    """Marks the tokens of responses, including the stop token.

    Args:
        lengths: (B,) lengths of the responses, in tokens.
        width: R, the number of columns.

    Returns:
        (B, R) bool.
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def used_columns(mask: Tensor) -> slice:
    """Returns the range from the first to the last column that any row uses; it contains at least one column.

    Args:
        mask: (B, T) bool.
    """
    used = mask.any(dim=0).nonzero().flatten()
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
