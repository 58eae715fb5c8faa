"""Token budgets: no part exceeds its limit, no row is lost, and minibatches are cut into the fewest equal parts."""

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.data.budget import Load, check_budget, cut, num_parts, parts_within
from lightning_rlhf.data.loader import MinibatchLoader
from lightning_rlhf.data.shares import Shares
from lightning_rlhf.errors import UserError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=10)


def tokens_of(lengths: list[int], part: list[int]) -> int:
    """The tokens of a part, padding included."""
    return len(part) * max((lengths[row] for row in part), default=0)


def test_rows_of_similar_length_become_a_part() -> None:
    # With at most 12 tokens, 9 tokens are a part; so are 5 and 4, which take 2 x 5, and 3, 2 and 1, which take 3 x 3.
    lengths = [2, 9, 4, 1, 5, 3]
    assert num_parts(lengths, 12) == 3
    assert cut(lengths, 3) == [[1], [4, 2], [5, 0, 3]]


def test_a_row_beyond_the_limit_is_a_part_by_itself() -> None:
    # The row of 9 tokens exceeds 6, and two rows of 3 are exactly 6.
    assert num_parts([3, 9, 3], 6) == 2
    assert cut([3, 9, 3], 2) == [[1], [0, 2]]


def test_parts_have_no_more_rows_than_allowed() -> None:
    assert num_parts([1, 1, 1, 1, 1], 100, max_rows=2) == num_parts([1, 1, 1, 1, 1], None, max_rows=2) == 3
    assert [len(part) for part in cut([1, 1, 1, 1, 1], 3, max_rows=2)] == [2, 2, 1]


@given(LENGTHS, st.integers(1, 200), st.sampled_from([None, 1, 2, 3]))
def test_as_many_parts_as_a_limit_needs_stay_within_it_and_lose_no_row(
    lengths: list[int], max_tokens: int, max_rows: int | None
) -> None:
    parts = cut(lengths, num_parts(lengths, max_tokens, max_rows), max_rows)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(tokens_of(lengths, part) <= max_tokens or len(part) == 1 for part in parts)
    assert all(0 < len(part) <= (max_rows or len(lengths)) for part in parts)


@given(LENGTHS, st.integers(1, 12))
def test_the_largest_part_is_as_small_as_any_way_of_cutting_allows(lengths: list[int], parts: int) -> None:
    found = cut(lengths, parts)
    assert len(found) == parts
    assert sum(part != [] for part in found) == min(parts, len(lengths))
    assert sorted(row for part in found for row in part) == list(range(len(lengths)))
    # All ways of cutting the sorted rows into so many parts; parts of other rows would have more padding.
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    ways = [
        [longest_first[a:b] for a, b in zip((0, *places), (*places, len(lengths)), strict=True)]
        for places in combinations(range(1, len(lengths)), min(parts, len(lengths)) - 1)
    ]
    best = min(max(tokens_of(lengths, part) for part in way) for way in ways)
    assert max(tokens_of(lengths, part) for part in found) == best


def test_a_minibatch_is_cut_into_the_fewest_parts_that_its_longest_rows_allow() -> None:
    # Of rows with 1 to 16 tokens, the longest eight are 16, 15, ..., 9. With at most 48 tokens they are three parts,
    # 3 x 16, 3 x 13 and 2 x 10. Two processes need two parts each.
    load = Load(8, np.arange(1, 17))
    assert parts_within(48, [load], processes=1) == load.parts(48) == 3
    assert parts_within(48, [load], processes=2) == 2
    # The user asks for more than is needed.
    assert parts_within(48, [load], processes=1, at_least=8) == 8
    # Four texts that are mixed in, in order, cannot be shared by three parts; if they are long, they need four.
    assert parts_within(48, [load, Load(4, np.full(4, 3), in_order=True)], processes=1) == 4
    assert parts_within(80, [load, Load(4, np.full(4, 40), in_order=True)], processes=1) == 2
    assert parts_within(79, [load, Load(4, np.full(4, 40), in_order=True)], processes=1) == 4
    # Rows that are too long are parts by themselves.
    assert parts_within(5, [load], processes=1) == 8


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_that_is_not_positive_is_an_error_with_its_value(budget: int) -> None:
    with pytest.raises(UserError, match=f"^max_tokens_per_micro_batch={budget}: must be a number of tokens"):
        check_budget(budget)


def loaders(lengths: list[int], size: int, processes: int, max_tokens: int, parts: int | None = None) -> list[Any]:
    """The loaders of all ranks over rows that are their numbers."""
    load = Load(min(size, len(lengths)) // processes * processes, np.array(lengths))
    needed = parts or parts_within(max_tokens, [load], processes)
    return [
        MinibatchLoader(
            range(len(lengths)),
            lambda rows, counts, size: (rows, counts, size),
            np.ones(len(lengths), dtype=int),
            minibatch_size=load.minibatch_size,
            lengths=np.array(lengths),
            max_tokens=max_tokens,
            trainer=SimpleNamespace(world_size=processes, global_rank=rank, accumulate_grad_batches=needed),  # type: ignore[arg-type]
            seed=3,
        )
        for rank in range(processes)
    ]


@given(st.lists(st.integers(1, 30), min_size=4, max_size=40), st.sampled_from([4, 8, 12]), st.integers(1, 3), st.data())
def test_no_micro_batch_of_any_rank_exceeds_the_budget_and_all_ranks_have_equally_many(
    lengths: list[int], size: int, processes: int, data: st.DataObject
) -> None:
    budget = data.draw(st.integers(1, 200))
    ranks = [list(loader) for loader in loaders(lengths, size, processes, budget)]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert all(len(rows) == 1 or tokens_of(lengths, rows) <= budget for rows, _, _ in batches)
    assert all(rows for rows, _, _ in batches)
    counted = [row for rows, counts, _ in batches for row, counts in zip(rows, counts, strict=True) if counts]
    assert sorted(counted) == list(range(len(lengths)))


def test_ranks_compute_parts_of_similar_length_at_the_same_time() -> None:
    # From the longest rows on, the four parts take turns: the first two belong to part 0 of the ranks.
    lengths = [1, 2, 3, 4, 10, 20, 30, 40]
    shares = [Shares(8, processes=2, num_parts=2, rank=rank, max_tokens=60) for rank in (0, 1)]
    parts = [[share.mine(share.dealt(list(range(8)), lengths), part) for share in shares] for part in (0, 1)]
    assert parts == [[[7], [6]], [[5, 4], [3, 2, 1, 0]]]


def test_too_few_parts_are_an_error_that_names_the_number() -> None:
    assert len(loaders([4] * 8, 8, 1, max_tokens=16, parts=2)) == 1
    with pytest.raises(UserError, match=r"^max_tokens_per_micro_batch=15: accumulate_grad_batches=2 .*batches=3 in"):
        loaders([4] * 8, 8, 1, max_tokens=15, parts=2)
