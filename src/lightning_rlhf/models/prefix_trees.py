"""How rows that begin alike are written into one row, so that their common beginning is there once.

Sorted rows that begin alike are neighbours. In a tree of neighbours, the first row is written whole, and each further
row only from the token on at which it leaves the row before it. A token belongs to all rows that contain it. It is seen
by the later tokens of these rows, which all come before its end, and by no other token before its end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SHARED = 0.1
"""A row joins a tree if it shares at least this part of its tokens with the row before it."""


class Neighbours(NamedTuple):
    """Rows in the order of their tokens."""

    order: list[int]
    """Indices of the rows."""
    shared: list[int]
    """Number of tokens with which each row, in this order, begins like the row before it."""


class Tree(NamedTuple):
    """Rows that are written together."""

    rows: list[int]
    """Indices of the rows, in their order."""
    shared: list[int]
    """Number of tokens with which each of these rows begins like the one before it; 0 for the first."""
    size: int
    """Number of tokens that are written."""


class Layout(NamedTuple):
    """Trees that are written into a line of numbers."""

    ids: np.ndarray
    """Token ids; 0 at places that are not used."""
    positions: np.ndarray
    """Number of tokens before a token in its rows; 0 at places that are not used."""
    ends: np.ndarray
    """First place behind the rows that contain a token. A place that is not used ends at the next one."""
    places: list[np.ndarray]
    """The places of the tokens of each row."""


def neighbours(rows: Sequence[np.ndarray]) -> Neighbours:
    """Sorts rows of token ids.

    Args:
        rows: For each row its ids, one-dimensional and not negative.
    """
    # The bytes of numbers that begin with the largest digit have the order of the numbers.
    order = sorted(range(len(rows)), key=lambda row: rows[row].astype(">i8").tobytes())
    return Neighbours(order, [0, *(_common(rows[a], rows[b]) for a, b in zip(order, order[1:], strict=False))])


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Number of tokens with which both rows begin."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length


def trees(sorted_rows: Neighbours, lengths: Sequence[int], most: int) -> list[Tree]:
    """Divides rows into trees.

    Args:
        sorted_rows: The rows in their order.
        lengths: Number of tokens of each row, by its index.
        most: Largest number of rows of a tree.
    """
    found: list[Tree] = []
    for row, shared in zip(*sorted_rows, strict=True):
        if shared and shared >= _SHARED * lengths[row] and len(found[-1].rows) < most:
            last = found[-1]
            found[-1] = Tree([*last.rows, row], [*last.shared, shared], last.size + lengths[row] - shared)
        else:
            found.append(Tree([row], [0], lengths[row]))
    return found


def layout(rows: Sequence[np.ndarray], written: Sequence[Tree], starts: Sequence[int], length: int) -> Layout:
    """Writes trees.

    Args:
        rows: The ids of each row.
        written: Trees, which contain each row once.
        starts: The place at which each tree begins.
        length: Number of places.
    """
    ids, positions = np.zeros((2, length), dtype=np.int64)
    ends = np.arange(1, length + 1)
    places = [np.zeros(0, dtype=np.int64)] * len(rows)
    for tree, start in zip(written, starts, strict=True):
        here, path = start, places[0][:0]
        for row, shared in zip(tree.rows, tree.shared, strict=True):
            own = slice(here, here + len(rows[row]) - shared)
            ids[own], positions[own] = rows[row][shared:], np.arange(shared, len(rows[row]))
            here = own.stop
            path = places[row] = np.concatenate([path[:shared], np.arange(own.start, own.stop)])
            ends[path] = here
    return Layout(ids, positions, ends, places)
