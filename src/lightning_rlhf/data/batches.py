"""What the data modules hand to the modules. Named tuples of tensors, so that Lightning moves them between devices.

Shapes: B rows, T tokens, P prompt tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int] | np.ndarray
"""Token ids of a row: a list, or an array of one dimension."""


class SFTBatch(NamedTuple):
    """Whole conversations, padded at the right."""

    input_ids: Tensor
    """(B, T) int64."""
    attention_mask: Tensor
    """(B, T) bool."""
    loss_mask: Tensor
    """(B, T) bool: True on the tokens to learn."""
    num_tokens: int
    """Tokens to learn in the whole minibatch, over all ranks and accumulated parts: what the loss is divided by."""


class PairBatch(NamedTuple):
    """Chosen conversations, then the rejected ones in the same order, padded at the right."""

    input_ids: Tensor
    """(2B, T) int64."""
    attention_mask: Tensor
    """(2B, T) bool."""
    margin: Tensor
    """(B,) by how much the chosen one should win."""
    answer_lengths: Tensor
    """(2B,) tokens of the last answer."""
    weight: Tensor
    """(B,) 1, or 0 for a row that only fills a batch."""
    num_pairs: int
    """Pairs of the whole minibatch."""


class ScoreBatch(NamedTuple):
    """Conversations with a score, padded at the right."""

    input_ids: Tensor
    """(B, T) int64."""
    attention_mask: Tensor
    """(B, T) bool."""
    scores: Tensor
    """(B,)."""
    weight: Tensor
    """(B,) 1, or 0 for a row that only fills a batch."""
    num_rows: int
    """Rows of the whole minibatch."""


class PromptBatch(NamedTuple):
    """Prompts, padded at the left."""

    input_ids: Tensor
    """(B, P) int64."""
    attention_mask: Tensor
    """(B, P) bool."""
    texts: list[str]
    """What a person reads: the last user turn."""
    columns: list[dict[str, Any]]
    """The other columns of each row, for reward functions."""
    indices: list[int]
    """Places of the rows in the data set; a row that only fills a batch repeats another's."""

    def rows(self, index: slice) -> "PromptBatch":
        """Some of the rows."""
        ids, mask, texts, columns, indices = self
        return PromptBatch(ids[index], mask[index], texts[index], columns[index], indices[index])

    def to(self, device: torch.device) -> "PromptBatch":
        """The same with its tensors on a device."""
        return self._replace(input_ids=self.input_ids.to(device), attention_mask=self.attention_mask.to(device))


def pad(rows: Sequence[Ids], side: str = "right") -> tuple[Tensor, Tensor]:
    """Pads rows of ids to a rectangle with 0; which entries are padding is known from the lengths, not from ids.

    Args:
        rows: B lists or arrays.
        side: Where the padding goes, right or left.

    Returns:
        Ids (B, T) int64 and mask (B, T) bool.
    """
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, place] = torch.from_numpy(np.asarray(row, dtype=np.int64))
        mask[number, place] = True
    return ids, mask


def chunks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(length)`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
