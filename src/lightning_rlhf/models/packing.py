"""How the rows of a batch are put into fewer, fuller rows, so that a model computes little padding.

Several rows follow each other in one row of the call. Their positions restart at 0, by which transformers knows where a
row begins (`find_packed_sequence_indices` in masking_utils.py), so that no row sees another.

Shapes: B rows, T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_rlhf.models.backbone import Backbone

_FAMILIES = frozenset({"gpt2", "gptj", "gpt_neox", "llama", "mistral", "gemma", "gemma2", "gemma3_text"})
_FAMILIES |= {"qwen2", "qwen3", "cohere", "granite"}
"""Families whose attention is tested to keep packed rows apart.

BLOOM's cannot, since ALiBi counts positions from the mask, and OPT makes its mask without the positions.
"""
_ROW_BY_ROW, _AS_ONE = ("eager", "sdpa"), "flash_attention_2"
"""Implementations of attention that pack. Flash attention takes one row that contains all others, of any length."""
_WORTH = 0.9
"""Packing must save a tenth of the positions, because masks of packed rows take time too."""
_packs = ContextVar("packs", default=True)


class Packed(NamedTuple):
    """A batch in fewer rows."""

    input_ids: Tensor
    """(rows, width)."""
    position_ids: Tensor
    """(rows, width); they restart at 0 with each row of the batch, and with the padding at the end."""
    places: Tensor
    """(B, T) index of each token of the batch in these rows, row by row; 0 at padding."""


@contextmanager
def without_packing() -> Iterator[None]:
    """Context in which rows stay padded: to check what a model does with padding, and to plan for the worst case."""
    before = _packs.set(False)
    try:
        yield
    finally:
        _packs.reset(before)


def packed(net: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Packed | None:
    """Packs a batch.

    Args:
        net: A Hugging Face model, or a `Backbone`.
        input_ids: (B, T).
        attention_mask: (B, T) bool.

    Returns:
        The packed batch; None if packing would save too little, or the model cannot keep the rows apart.
    """
    config: Any = (net.net if isinstance(net, Backbone) else net).config
    attention = config._attn_implementation
    if not _packs.get() or config.model_type not in _FAMILIES or attention not in (*_ROW_BY_ROW, _AS_ONE):
        return None
    lengths = attention_mask.sum(1).tolist()
    if sum(lengths) >= _WORTH * attention_mask.numel():
        return None
    width = sum(lengths) if attention == _AS_ONE else max(lengths)
    starts, num_rows = _starts(lengths, width)
    if num_rows * width > _WORTH * attention_mask.numel():
        return None
    # Padding at the end of a row is a row by itself, whose positions restart.
    places = torch.tensor(starts).to(input_ids.device)[:, None] + attention_mask.cumsum(1) - 1
    places = torch.where(attention_mask, places, 0)
    real = places[attention_mask]
    ids = input_ids.new_zeros(num_rows * width)
    ids[real] = input_ids[attention_mask]
    positions = _positions(lengths, starts, num_rows, width).to(input_ids.device)
    return Packed(ids.view(num_rows, width), positions, places)


def _starts(lengths: Sequence[int], width: int) -> tuple[list[int], int]:
    """Puts each row, the longest first, into the first row of the call that has room for it.

    Returns:
        The index of the first token of each row, and the number of rows of the call.
    """
    filled: list[int] = []
    starts = [0] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        number = next((n for n, used in enumerate(filled) if used + lengths[row] <= width), len(filled))
        if number == len(filled):
            filled.append(0)
        starts[row] = number * width + filled[number]
        filled[number] += lengths[row]
    return starts, len(filled)


def _positions(lengths: Sequence[int], starts: Sequence[int], num_rows: int, width: int) -> Tensor:
    """The number of tokens since the row of the batch, or the padding, began; (rows, width)."""
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    here = torch.arange(num_rows * width)
    begins = torch.zeros(num_rows * width, dtype=torch.long)
    first = torch.tensor(sorted({*starts, *ends, *range(0, num_rows * width, width)} - {num_rows * width}))
    begins[first] = first
    return (here - begins.cummax(0).values).view(num_rows, width)
