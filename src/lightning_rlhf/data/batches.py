"""The batches of the data modules. They are named tuples of tensors, so Lightning can move them between devices.

Shapes: B rows, T tokens, P prompt tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_rlhf.data.files import Row

Ids = Sequence[int] | np.ndarray
"""Token ids of a row: a list, or a one-dimensional array."""


class SFTBatch(NamedTuple):
    """Whole conversations, padded at the right."""

    input_ids: Tensor
    """(B, T) int64."""
    attention_mask: Tensor
    """(B, T) bool."""
    loss_mask: Tensor
    """(B, T) bool: True on the tokens to learn."""
    num_tokens: int
    """Number of tokens to learn in the whole minibatch, over all ranks and accumulated parts; divides the loss."""


class PairBatch(NamedTuple):
    """Chosen conversations, followed by the rejected ones in the same order, padded at the right."""

    input_ids: Tensor
    """(2B, T) int64."""
    attention_mask: Tensor
    """(2B, T) bool."""
    margin: Tensor
    """(B,) margins by which the chosen score should exceed the rejected score."""
    answer_lengths: Tensor
    """(2B,) lengths of the last answers, in tokens."""
    weight: Tensor
    """(B,) 1, or 0 for a row that only fills a batch."""
    num_pairs: int
    """Number of pairs in the whole minibatch."""


class ScoreBatch(NamedTuple):
    """Conversations with a score, padded at the right."""

    input_ids: Tensor
    """(B, T) int64."""
    attention_mask: Tensor
    """(B, T) bool."""
    scores: Tensor
    """(B,) scores of the data."""
    weight: Tensor
    """(B,) 1, or 0 for a row that only fills a batch."""
    num_rows: int
    """Number of rows in the whole minibatch."""


class PromptBatch(NamedTuple):
    """Prompts, padded at the left."""

    input_ids: Tensor
    """(B, P) int64."""
    attention_mask: Tensor
    """(B, P) bool."""
    texts: list[str]
    """The last user turn of each prompt."""
    columns: list[Row]
    """The other columns of each row, for reward functions."""
    indices: list[int]
    """Indices of the rows in the data set; a row that only fills a batch repeats the index of another row."""

    def rows(self, index: slice | list[int]) -> "PromptBatch":
        """Returns some of the rows."""
        places = range(len(self.texts))[index] if isinstance(index, slice) else index
        return PromptBatch(
            self.input_ids[index],
            self.attention_mask[index],
            [self.texts[place] for place in places],
            [self.columns[place] for place in places],
            [self.indices[place] for place in places],
        )

    def to(self, device: torch.device) -> "PromptBatch":
        """Returns the batch with its tensors on a device."""
        return self._replace(input_ids=self.input_ids.to(device), attention_mask=self.attention_mask.to(device))


def pad(rows: Sequence[Ids], side: str = "right") -> tuple[Tensor, Tensor]:
    """Pads rows of ids with 0 to equal length. The mask is computed from the lengths, and not from the ids.

    Args:
        rows: B lists or arrays.
        side: Side of the padding, right or left.

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
    """Yields slices of at most `size` elements that cover `range(length)`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
