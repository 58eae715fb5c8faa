"""A key-value cache for rows that come and go, which transformers' models fill and read like their own.

All rows write to the same column in a step. A row that joins later has its prompt copied to the columns just before
that one, so each row uses consecutive columns up to the last, as a row that is padded at the left does. Keys and values
are written in place, and a call sees only the columns that some row uses. Nothing is concatenated.

Shapes: S rows for which there is memory, B rows in use, C columns, H heads of keys and values, D size of a head.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.columns import ALIGNMENT, aligned, more_columns


@dataclass
class Columns:
    """The part of the memory that is in use, which is the same in all layers."""

    num_rows: int
    """B; the rows in use are the first ones."""
    start: int
    """First column that a row uses."""
    end: int
    """The column that the next token is written to."""

    @property
    def seen(self) -> slice:
        """The columns that a call sees; those before `start` are hidden by the mask."""
        return slice(self.start - self.start % ALIGNMENT, self.end + 1)


class ColumnLayer(CacheLayerMixin):
    """The keys and values of one layer, both (S, H, C, D)."""

    def __init__(self, like: DynamicLayer, num_rows: int, num_columns: int, columns: Columns) -> None:
        """Takes memory for keys and values of the same sizes and types as those of another layer."""
        super().__init__()
        self.columns, self.is_initialized = columns, True
        # Memory that was never written to may hold NaN, which a weight of 0 does not remove.
        self.keys, self.values = (
            old.new_zeros(num_rows, old.shape[1], num_columns, old.shape[3]) for old in _tensors(like)
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing, because the memory has been taken already."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes (B, H, 1, D) keys and values to the last column, and returns all columns that rows use."""
        used = self.columns
        found = []
        for held, new in zip(_tensors(self), (key_states, value_states), strict=True):
            seen = held[: used.num_rows, :, used.seen]
            seen[:, :, -1:] = new
            found.append(seen)
        return found[0], found[1]

    def get_seq_length(self) -> int:
        """Number of columns before the last that a call sees."""
        return self.columns.end - self.columns.seen.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns that a call sees, and the number of the first."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """There is no limit, because a column that no row uses any more is used again."""
        return -1

    def take(self, prefix: DynamicLayer, chosen: Tensor) -> None:
        """Copies (b, H, P, D) keys and values of chosen rows to the next free rows."""
        used = self.columns
        for held, other in zip(_tensors(self), _tensors(prefix), strict=True):
            held[used.num_rows : used.num_rows + len(chosen), :, used.end - other.shape[2] : used.end] = other[chosen]

    def replace(self, row: int, other: int) -> None:
        """Copies the keys and values of one row to another."""
        used = slice(self.columns.start, self.columns.end)
        for held in _tensors(self):
            held[row, :, used] = held[other, :, used]

    def move(self, end: int, num_columns: int) -> None:
        """Moves all columns in use to new memory, so that the next token is written to column `end` there."""
        used = self.columns
        width = used.end - used.start

        def moved(held: Tensor) -> Tensor:
            fresh = held.new_zeros(*held.shape[:2], num_columns, held.shape[3])
            fresh[: used.num_rows, :, end - width : end] = held[: used.num_rows, :, used.start : used.end]
            return fresh

        self.keys, self.values = map(moved, _tensors(self))


class ColumnCache(Cache):
    """A key-value cache for rows that come and go."""

    def __init__(self, net: nn.Module, prefix: Cache, num_rows: int, num_columns: int, max_columns: int) -> None:
        """Takes memory.

        Args:
            net: The model that is called with this cache.
            prefix: A cache of the same model, whose layers have the same sizes.
            num_rows: S.
            num_columns: C, more than the width of `prefix`; more are taken when they are needed.
            max_columns: Number of columns that is never exceeded, more than a row ever uses. This and `num_columns` are
                rounded up to multiples of 8.
        """
        self.max_columns, num_columns = aligned(max_columns), aligned(num_columns)
        width = prefix.get_seq_length()
        self.columns = Columns(num_rows=0, start=width, end=width)
        self._own = [ColumnLayer(layer, num_rows, num_columns, self.columns) for layer in _layers(prefix)]
        super().__init__(layers=[*self._own])
        self.firsts: list[int] = []
        """The first column of each row."""
        self._is_prepared = takes_prepared_mask(net)
        keys, _ = _tensors(_layers(prefix)[0])
        self._shown: float = 0 if self._is_prepared else 1
        self._hidden: float = -torch.inf if self._is_prepared else 0
        dtype = keys.dtype if self._is_prepared else torch.long
        self._mask = torch.full((num_rows, num_columns), self._hidden, dtype=dtype, device=keys.device)

    def mask(self) -> Tensor:
        """Returns the attention mask of the next step, in the form that the model takes.

        It shows each row all columns from its first on, also those that are yet to be written. A step therefore only
        cuts it out, and writes nothing.
        """
        used = self.columns
        # A dimension that is added to the part would have the stride of its length.
        mask = self._mask[:, None, None] if self._is_prepared else self._mask
        return mask[: used.num_rows, ..., used.seen]

    def admit(self, prefix: Cache, chosen: Sequence[int], lengths: Sequence[int]) -> None:
        """Adds rows behind those in use.

        Args:
            prefix: Keys and values of prompts of width P, padded at the left.
            chosen: For each new row, the row of its prompt in `prefix`.
            lengths: For each new row, the number of tokens of its prompt.
        """
        used, width = self.columns, prefix.get_seq_length()
        if used.end < width:
            self._move(width)
        places = torch.tensor(chosen, device=self._mask.device)
        for layer, read in zip(self._own, _layers(prefix), strict=True):
            layer.take(read, places)
        rows = slice(used.num_rows, used.num_rows + len(chosen))
        self.firsts += [used.end - length for length in lengths]
        used.num_rows, used.start = rows.stop, min(self.firsts)
        self._show(rows)

    def advance(self) -> None:
        """Makes the next column the one that is written to, after each row has written a token."""
        self.columns.end += 1
        if self.columns.end == self._mask.shape[1]:
            self._move(self.columns.end - self.columns.start)

    def remove(self, row: int) -> None:
        """Removes a row; the last row takes its place."""
        used, last = self.columns, len(self.firsts) - 1
        if row != last:
            for layer in self._own:
                layer.replace(row, last)
            self._mask[row] = self._mask[last]
            self.firsts[row] = self.firsts[last]
        self.firsts.pop()
        used.num_rows, used.start = last, min(self.firsts, default=used.end)

    def _show(self, rows: slice) -> None:
        firsts = torch.tensor(self.firsts[rows], device=self._mask.device)
        columns = torch.arange(self._mask.shape[1], device=self._mask.device)
        self._mask[rows] = self._mask.new_full((), self._hidden).masked_fill(columns >= firsts[:, None], self._shown)

    def _move(self, end: int) -> None:
        """Moves the columns in use, so that the next token is written to column `end`, with columns to spare behind."""
        used, width = self.columns, self.columns.end - self.columns.start
        num_columns = more_columns(end, self._mask.shape[1], self.max_columns)
        for layer in self._own:
            layer.move(end, num_columns)
        self.firsts = [first - used.end + end for first in self.firsts]
        used.start, used.end = end - width, end
        self._mask = self._mask.new_full((len(self._mask), num_columns), self._hidden)
        self._show(slice(0, used.num_rows))


def is_supported(net: nn.Module) -> bool:
    """Whether all layers of a model keep keys and values, and nothing else, so that this cache can serve them."""
    whole = getattr(_model(net), "config", None)
    if not isinstance(whole, PreTrainedConfig):
        return False
    config = whole.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    if config.is_encoder_decoder or not {*kinds} <= {"full_attention", "sliding_attention"}:
        return False
    return {type(layer) for layer in DynamicCache(config=config).layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def takes_prepared_mask(net: nn.Module) -> bool:
    """Whether a mask that is added to the scores of attention serves all layers of a model.

    BLOOM reads positions from a mask of ones and zeros, layers with a window need masks of their own, and other
    implementations of attention than these two take other forms.
    """
    model: Any = _model(net)
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    return (
        config._attn_implementation in ("sdpa", "eager")
        and takes_positions(net)
        and all(type(layer) is DynamicLayer for layer in layers)
    )


def takes_positions(net: nn.Module) -> bool:
    """Whether a model is told positions; BLOOM is not."""
    return "position_ids" in inspect.signature(type(_model(net)).forward).parameters


def _model(net: nn.Module) -> nn.Module:
    return net.net if isinstance(net, Backbone) else net


def _layers(prefix: Cache) -> list[DynamicLayer]:
    return cast(list[DynamicLayer], prefix.layers)


def _tensors(layer: CacheLayerMixin) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values
