"""How the rows of a batch are put into fewer, fuller rows, so that a model computes little padding and nothing twice.

Several rows follow each other in one row of the call. Rows that begin alike, such as two answers to a prompt, contain
their common beginning once (`models/prefix_trees.py`). A mask shows each token its own row so far, and its position is
that in its own row.

Shapes: B rows, T tokens, W tokens of a row of the call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.prefix_trees import Tree, layout, neighbours, trees

_BY_KIND = frozenset({"gemma2", "gemma3_text", "qwen2", "qwen3"})
"""Families that take a mask for each kind of layer."""
_FAMILIES = _BY_KIND | {"gpt2", "gptj", "gpt_neox", "llama", "mistral", "gemma", "cohere", "granite", "opt"}
"""Families whose attention is tested to keep packed rows apart. BLOOM's reads positions from a mask of padding."""
_ROW_BY_ROW, _AS_ONE = ("eager", "sdpa"), "flash_attention_2"
"""Implementations of attention that pack.

Flash attention takes no mask. It gets one row that contains all others, and positions that restart with each of them.
"""
_WORTH = 0.9
"""Packing must save a tenth of the work, because to arrange rows takes time too."""
_COLUMNS = 3
"""A layer takes as long for a token as its attention does for so many columns times the hidden size.

The products with the weights are 12 D² multiplications for a token, and those of the attention 2 D for a column, which
would make it 6; but attention with a mask takes about twice as long for as many multiplications.
"""
_packs = ContextVar("packs", default=True)


class Arranged(NamedTuple):
    """The tokens of a batch as a model is given them."""

    arguments: dict[str, Any]
    """Token ids, mask and positions; the mask may be a dict of masks."""
    places: Tensor
    """(B, T) int64 index of each token of the batch among the positions of the call, row by row; 0 at padding that is
    left out."""


class _Plan(NamedTuple):
    """Trees in rows of a call."""

    written: list[Tree]
    starts: list[int]
    num_rows: int
    width: int


@contextmanager
def without_packing() -> Iterator[None]:
    """Context in which rows stay padded: to check what a model does with padding, and to plan for the worst case."""
    before = _packs.set(False)
    try:
        yield
    finally:
        _packs.reset(before)


def packed(net: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Arranged | None:
    """Packs a batch.

    Args:
        net: A Hugging Face model, or a `Backbone`.
        input_ids: (B, T).
        attention_mask: (B, T) bool.

    Returns:
        The packed batch; None if packing would save too little, or the model cannot keep the rows apart.
    """
    inner: Any = net.net if isinstance(net, Backbone) else net
    config, attention = inner.config, inner.config._attn_implementation
    if not _packs.get() or config.model_type not in _FAMILIES or attention not in (*_ROW_BY_ROW, _AS_ONE):
        return None
    # The only transfer from the device.
    padded = torch.where(attention_mask, input_ids, -1).cpu().numpy()
    rows = [row[row >= 0] for row in padded]
    plan = _cheapest(rows, attention_mask.shape, config.hidden_size, attention, shares=not _drops_out(inner))
    if plan is None:
        return None
    ids, positions, ends, row_places = layout(rows, plan.written, plan.starts, plan.num_rows * plan.width)
    places = np.zeros_like(padded)
    for row, own in enumerate(row_places):
        places[row, padded[row] >= 0] = own
    shape, device = (3, plan.num_rows, plan.width), input_ids.device
    arranged_ids, arranged_positions, last = torch.from_numpy(np.stack([ids, positions, ends])).to(device).view(shape)
    arguments = {"input_ids": arranged_ids, "position_ids": arranged_positions}
    if attention != _AS_ONE:
        arguments["attention_mask"] = _masks(inner, arranged_positions, last)
    return Arranged(arguments, torch.from_numpy(places).to(device))


def _cheapest(
    rows: Sequence[np.ndarray], shape: torch.Size, hidden_size: int, attention: str, *, shares: bool
) -> _Plan | None:
    """Finds out how many rows of a tree are best: with more of them fewer tokens are left, but attention is wider."""

    def cost(num_rows: int, width: int) -> int:
        return num_rows * width * (_COLUMNS * hidden_size + width)

    lengths, sorted_rows = [len(row) for row in rows], neighbours(rows)
    best, least = None, _WORTH * cost(*shape)
    most = 1
    while most <= len(rows):
        written = trees(sorted_rows, lengths, most)
        sizes = [tree.size for tree in written]
        width = sum(sizes) if attention == _AS_ONE else max(sizes)
        starts, num_rows = _starts(sizes, width)
        # Eager attention keeps its weights, so that wider rows would need more memory than padded ones.
        fits = attention != "eager" or num_rows * width**2 <= shape[0] * shape[1] ** 2
        if fits and cost(num_rows, width) <= least:
            best, least = _Plan(written, starts, num_rows, width), cost(num_rows, width)
        if not shares or attention == _AS_ONE or max(len(tree.rows) for tree in written) < most:
            break
        most *= 2
    return best


def _starts(lengths: Sequence[int], width: int) -> tuple[list[int], int]:
    """Puts each part, the longest first, into the first row of the call that has room for it.

    Returns:
        The index of the first token of each part, and the number of rows of the call.
    """
    filled: list[int] = []
    starts = [0] * len(lengths)
    for part in sorted(range(len(lengths)), key=lambda part: -lengths[part]):
        number = next((n for n, used in enumerate(filled) if used + lengths[part] <= width), len(filled))
        if number == len(filled):
            filled.append(0)
        starts[part] = number * width + filled[number]
        filled[number] += lengths[part]
    return starts, len(filled)


def _masks(net: Any, positions: Tensor, ends: Tensor) -> Any:
    """The mask (rows, 1, W, W) of attention, or one for each kind of layer.

    Args:
        net: The model.
        positions: (rows, W).
        ends: (rows, W) see `Layout`.
    """
    config = net.config
    here = torch.arange(ends.numel(), device=ends.device).view_as(ends)
    query, key = here[:, None, :, None], here[:, None, None, :]
    whole = (key <= query) & (query < ends[:, None, None, :])

    def windowed() -> Tensor:
        return whole & (positions[:, None, :, None] - positions[:, None, None, :] < config.sliding_window)

    def form(mask: Tensor) -> Tensor:
        if config._attn_implementation == "sdpa":
            return mask
        return torch.zeros(mask.shape, dtype=net.dtype, device=mask.device).masked_fill_(~mask, -torch.inf)

    if config.model_type in _BY_KIND:
        kinds = {"full_attention": lambda: whole, "sliding_attention": windowed}
        return {kind: form(kinds[kind]()) for kind in dict.fromkeys(config.layer_types)}
    return form(whole if getattr(config, "sliding_window", None) is None else windowed())


def _drops_out(net: nn.Module) -> bool:
    """Whether numbers are dropped at random, which must happen in each row by itself."""
    if not net.training:
        return False
    rates = (rate for name, rate in vars(net.config).items() if name.endswith(("dropout", "pdrop", "dropout_prob")))
    return any(rates) or any(part.p > 0 for part in net.modules() if isinstance(part, nn.Dropout))
