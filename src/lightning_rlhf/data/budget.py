"""Cuts rows into parts of at most so many tokens, padding included, and counts the parts that a minibatch needs.

Rows of similar length go together: a part begins with the longest rows that are left, and has as many rows as its limit
allows at the length of its first. The tokens of a part are its number of rows times its longest row.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lightning_rlhf.errors import UserError


class Load(NamedTuple):
    """The rows of which each optimizer step takes some."""

    minibatch_size: int
    lengths: np.ndarray
    """(rows,) number of tokens of each row that a minibatch may contain."""
    in_order: bool = False
    """Whether rows are shared in order, so that all parts have equally many."""

    def parts(self, max_tokens: int) -> int:
        """The number of parts into which a minibatch has to be cut if it has the longest rows of all."""
        longest = np.sort(self.lengths)[::-1][: self.minibatch_size].tolist()
        return num_parts(longest, max_tokens)


def check_budget(max_tokens: int | None) -> None:
    """Checks a token budget; None stands for no budget.

    Raises:
        UserError: If it is not positive.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens_per_micro_batch={max_tokens}: must be a number of tokens, 1 or more, or null")


def num_parts(lengths: Sequence[int], max_tokens: int | None, max_rows: int | None = None) -> int:
    """The smallest number of parts into which rows can be cut.

    Args:
        lengths: Number of tokens of each row, at least 1.
        max_tokens: Limit of the tokens of a part, padding included; a longer row is a part by itself. None for none.
        max_rows: Limit of the rows of a part; None for none.
    """
    descending = sorted(lengths, reverse=True)
    return len(_sizes(descending, max_tokens or sum(descending[:1]) * len(descending), max_rows or len(descending)))


def cut(lengths: Sequence[int], parts: int, max_rows: int | None = None) -> list[list[int]]:
    """Cuts rows into parts whose largest has as few tokens as possible, padding included.

    Args:
        lengths: Number of tokens of each row, at least 1.
        parts: Number of parts; `num_parts` of them are enough for a limit.
        max_rows: Limit of the rows of a part; None for none.

    Returns:
        Indices of the rows of each part, from the longest rows to the shortest. The last parts are empty if there are
        fewer rows than parts.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    descending, most = [lengths[row] for row in order], max_rows or len(order)
    limits = range(1, descending[0] * len(order) + 1)
    limit = limits[bisect_left(limits, True, key=lambda tokens: len(_sizes(descending, tokens, most)) <= parts)]
    sizes = _sizes(descending, limit, most)
    while len(sizes) < min(parts, len(order)):
        widest = sizes.index(max(sizes))
        sizes[widest : widest + 1] = [-(-sizes[widest] // 2), sizes[widest] // 2]
    ends = np.cumsum([0, *sizes, *[0] * (parts - len(sizes))]).tolist()
    return [order[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def _sizes(descending: Sequence[int], max_tokens: int, max_rows: int) -> list[int]:
    """The numbers of rows of parts within limits, for rows from the longest to the shortest."""
    sizes, start = [], 0
    while start < len(descending):
        sizes.append(max(1, min(max_tokens // descending[start], max_rows, len(descending) - start)))
        start += sizes[-1]
    return sizes


def parts_within(max_tokens: int, loads: Iterable[Load], processes: int, at_least: int = 1) -> int:
    """The number of parts that keeps every micro-batch within a token budget.

    Args:
        max_tokens: The budget: the limit of the tokens of a micro-batch.
        loads: The rows of the stage, and texts that are mixed in if there are any.
        processes: Number of processes that share a minibatch.
        at_least: Number of parts that the user asks for.

    Returns:
        The smallest number of parts of a process's share of each minibatch, from `at_least` on, that is enough. If none
        is, because rows that are shared in order are too long, it is the largest possible number.
    """
    loads = list(loads)
    needed = max(-(-load.parts(max_tokens) // processes) for load in loads)
    possible = [
        parts
        for parts in range(at_least, min(load.minibatch_size for load in loads) // processes + 1)
        if not any(load.minibatch_size % (processes * parts) for load in loads if load.in_order)
    ]
    return next((parts for parts in possible if parts >= needed), possible[-1] if possible else at_least)
