"""Attention of rows that follow each other in one line, computed for each segment of the line by itself.

A mask over the whole line would let attention compute all pairs of tokens. A segment contains one row or a few, so that
only the pairs within it are computed, and nothing is padding. The model calls the attention `sdpa` of transformers,
whose mask is here a tensor of another kind: it says where the segments end.

Shapes: N tokens of the line, H heads, D numbers of a head.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def segment_mask(ends: Tensor, sizes: Sequence[int]) -> Tensor:
    """Describes segments in a tensor that models pass on to each attention, as they do with any mask of four axes.

    Args:
        ends: (1, N) int64, see `prefix_trees.Layout`.
        sizes: Number of tokens of each segment; their sum is N.

    Returns:
        (1, 1, 2, N) int64: the ends, and the number of each token's segment.
    """
    _accept_segments()
    numbers = torch.repeat_interleave(torch.tensor(sizes))
    return torch.stack([ends[0], numbers])[None, None]


@cache
def _accept_segments() -> None:
    """Lets the attention `sdpa` of transformers accept masks of this kind; it gets all other masks as before."""
    AttentionInterface.register("sdpa", partial(_attention, ALL_ATTENTION_FUNCTIONS["sdpa"]))


def _attention(
    whole: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    """Computes (1, N, H, D) from (1, H, N, D), as the attention that `whole` computes for a segment does.

    Each argument is split once, because the gradient of a split is one concatenation, whereas that of each slice would
    be as large as the whole.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return whole(module, query, key, value, attention_mask, **kwargs)
    ends, numbers = attention_mask[0, 0]
    sizes = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
    found, start = [], 0
    queries, keys, values = (tensor.split(sizes, 2) for tensor in (query, key, value))
    for own, q, k, v in zip(ends.split(sizes), queries, keys, values, strict=True):
        found.append(whole(module, q, k, v, _within(own - start), **kwargs)[0])
        start += len(own)
    return torch.cat(found, 1), None


def _within(ends: Tensor) -> Tensor | None:
    """The mask (1, 1, n, n) of a segment; None for a single row, whose attention is causal and needs none."""
    if bool((ends == len(ends)).all()):
        return None
    here = torch.arange(len(ends))
    return ((here <= here[:, None]) & (here[:, None] < ends))[None, None]
