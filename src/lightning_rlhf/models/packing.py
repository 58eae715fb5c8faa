"""How the rows of a batch are put into fewer, fuller rows, so that a model computes little padding and nothing twice.

Several rows follow each other in one row of the call. Rows that begin alike, such as two answers to a prompt, contain
their common beginning once (`models/prefix_trees.py`). A mask shows each token its own row so far, and its position is
that in its own row. On a CPU the call is one line without padding, whose attention is computed in segments
(`models/segments.py`).

Shapes: B rows, T tokens, W tokens of a row of the call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_rlhf.models.attention import FLASH
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.prefix_trees import Tree, layout, neighbours, trees
from lightning_rlhf.models.segments import segment_mask

_BY_KIND = frozenset({"gemma2", "gemma3_text", "qwen2", "qwen3"})
"""Families that take a mask for each kind of layer."""
_FAMILIES = _BY_KIND | {"gpt2", "gptj", "gpt_neox", "llama", "mistral", "gemma", "cohere", "granite", "opt"}
"""Families whose attention is tested to keep packed rows apart. BLOOM's reads positions from a mask of padding."""
_IMPLEMENTATIONS = ("eager", "sdpa", FLASH)
"""Implementations of attention that pack.

Flash attention takes no mask. It gets one row that contains all others, and where each of them begins and ends.
"""
_SEGMENT = 128
"""Rows that fit together into so many tokens share a segment, because each call of the attention takes time too."""
_WORTH = 0.9
"""Packing must save a tenth of the work, because to arrange rows takes time too."""
_COLUMNS = 3
"""A layer takes as long for a token as its attention does for so many columns times the hidden size.

The products with the weights are 12 D² multiplications for a token, and those of the attention 2 D for a column, which
would make it 6; but attention with a mask takes about twice as long for as many multiplications.
"""
_packs = ContextVar("packs", default=True)
_Form = Literal["rows", "segments", "flash"]
"""How a call contains its rows: in rows of equal length, in segments of a line, or in a line for flash attention."""


class Arranged(NamedTuple):
    """The tokens of a batch as a model is given them."""

    arguments: dict[str, Any]
    """Token ids, mask and positions; the mask may be a dict of masks."""
    places: Tensor
    """(B, T) int64 index of each token of the batch among the positions of the call, row by row; 0 at padding that is
    left out."""


class _Plan(NamedTuple):
    """Trees in rows of a call, or in segments of a line."""

    written: list[Tree]
    starts: list[int]
    sizes: list[int]
    """Number of tokens of each row, padding included, or of each segment."""


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
    if not _packs.get() or config.model_type not in _FAMILIES or attention not in _IMPLEMENTATIONS:
        return None
    # The only transfer from the device.
    padded = torch.where(attention_mask, input_ids, -1).cpu().numpy()
    rows = [row[row >= 0] for row in padded]
    form: _Form = "flash" if attention == FLASH else "segments" if _takes_segments(inner, input_ids) else "rows"
    plan = _cheapest(rows, attention_mask.shape, config, form, shares=form != "flash" and not _drops_out(inner))
    if plan is None:
        return None
    ids, positions, ends, row_places = layout(rows, plan.written, plan.starts, sum(plan.sizes))
    places = np.zeros_like(padded)
    for row, own in enumerate(row_places):
        places[row, padded[row] >= 0] = own
    shape, device = (3, len(plan.sizes) if form == "rows" else 1, -1), input_ids.device
    arranged_ids, arranged_positions, last = torch.from_numpy(np.stack([ids, positions, ends])).to(device).view(shape)
    arguments = {"input_ids": arranged_ids, "position_ids": arranged_positions}
    if form == "rows":
        arguments["attention_mask"] = _masks(inner, arranged_positions, last)
    elif form == "segments":
        arguments["attention_mask"] = _by_kind(config, lambda _: segment_mask(last, plan.sizes))
    else:
        arguments |= _ends(plan.sizes, device)
    return Arranged(arguments, torch.from_numpy(places).to(device))


def _ends(sizes: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Tells flash attention the rows of a line (transformers' `FlashAttentionKwargs`).

    transformers would find them by the positions too, but would wait for the GPU in each layer.

    Args:
        sizes: Number of tokens of each row.
        device: The device of the model.
    """
    ends = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32).to(device)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(sizes),
        "max_length_k": max(sizes),
    }


def _takes_segments(net: nn.Module, input_ids: Tensor) -> bool:
    """Whether the attention of a line can be computed in segments.

    The program would have to wait for a GPU to learn their lengths, and compiled code would be compiled for each number
    of them. A window that is shorter than a row needs a mask.
    """
    config: Any = net.config
    window = getattr(config, "sliding_window", None)
    return (
        config._attn_implementation == "sdpa"
        and input_ids.device.type == "cpu"
        and (window is None or window >= input_ids.shape[1])
        and all(part._compiled_call_impl is None for part in net.modules())
    )


def _cheapest(rows: Sequence[np.ndarray], shape: torch.Size, config: Any, form: _Form, *, shares: bool) -> _Plan | None:
    """Finds out how many rows of a tree are best: with more of them fewer tokens are left, but attention is wider."""

    def cost(sizes: Sequence[int]) -> int:
        return sum(size * (_COLUMNS * config.hidden_size + size) for size in sizes)

    num_rows, length = shape
    lengths, sorted_rows = [len(row) for row in rows], neighbours(rows)
    best, least = None, _WORTH * cost([length] * num_rows)
    most = 1
    while most <= len(rows):
        written = trees(sorted_rows, lengths, most)
        plan = _placed(written, form)
        # Eager attention keeps its weights, so that wider rows would need more memory than padded ones.
        squares = sum(size**2 for size in plan.sizes)
        fits = config._attn_implementation != "eager" or squares <= num_rows * length**2
        if fits and cost(plan.sizes) <= least:
            best, least = plan, cost(plan.sizes)
        if not shares or max(len(tree.rows) for tree in written) < most:
            break
        most *= 2
    return best


def _placed(written: list[Tree], form: _Form) -> _Plan:
    """Puts each tree, the longest first, into the first row or segment that has room for it."""
    longest = max(tree.size for tree in written)
    room = {"rows": longest, "segments": _SEGMENT, "flash": 0}[form]
    filled, contents = list[int](), list[list[int]]()
    for number in sorted(range(len(written)), key=lambda number: -written[number].size):
        size = written[number].size
        place = next((n for n, used in enumerate(filled) if used + size <= room), len(filled))
        if place == len(filled):
            filled.append(0)
            contents.append([])
        filled[place] += size
        contents[place].append(number)
    sizes = [longest] * len(filled) if form == "rows" else filled
    starts = [0] * len(written)
    for first, numbers in zip(accumulate(sizes, initial=0), contents, strict=False):
        for number in numbers:
            starts[number] = first
            first += written[number].size
    return _Plan(written, starts, sizes)


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

    kinds = {"full_attention": lambda: whole, "sliding_attention": windowed}
    return _by_kind(config, lambda kind: form(kinds[kind]()))


def _by_kind(config: Any, mask_of: Callable[[str], Tensor]) -> Any:
    """The mask of each kind of layer, if the family takes several."""
    if config.model_type in _BY_KIND:
        return {kind: mask_of(kind) for kind in dict.fromkeys(config.layer_types)}
    return mask_of("full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention")


def _drops_out(net: nn.Module) -> bool:
    """Whether numbers are dropped at random, which must happen in each row by itself."""
    if not net.training:
        return False
    rates = (rate for name, rate in vars(net.config).items() if name.endswith(("dropout", "pdrop", "dropout_prob")))
    return any(rates) or any(part.p > 0 for part in net.modules() if isinstance(part, nn.Dropout))
