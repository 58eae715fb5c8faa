"""The share of a minibatch: which process reads which of its rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.data.adapting import collected
from lightning_rlhf.data.shares import Shares, filled
from lightning_rlhf.errors import UserError


def test_the_parts_of_a_rank_stand_side_by_side() -> None:
    # Two ranks read minibatches of twelve rows in three parts of two rows each; minibatch 1 consists of rows 12 to 23.
    shares = [Shares(12, processes=2, num_parts=3, rank=rank) for rank in (0, 1)]
    minibatch = shares[0].minibatch(list(range(40)), 1)
    assert minibatch == list(range(12, 24))
    read = [[share.mine(share.in_order(minibatch), part) for part in range(3)] for share in shares]
    assert read == [[[12, 13], [14, 15], [16, 17]], [[18, 19], [20, 21], [22, 23]]]
    assert shares[1].micro_batch_size == 2


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_ranks_and_parts_read_each_row_of_a_minibatch_once(processes: int, parts: int, rows_each: int) -> None:
    minibatch = list(range(processes * parts * rows_each))
    shares = [Shares(len(minibatch), processes, parts, rank) for rank in range(processes)]
    read = [share.mine(share.in_order(minibatch), part) for share in shares for part in range(parts)]
    assert [row for part in read for row in part] == minibatch


def test_parts_have_as_equal_numbers_of_tokens_as_whole_rows_allow() -> None:
    # Two ranks with two parts of two rows each. Of 9, 8, 7, 6, 4, 3, 2, 1 tokens, the longest four open the parts, and
    # the shortest joins the longest: 9 + 1, 8 + 2, 7 + 3 and 6 + 4. In order, parts would have 17, 13, 7 and 3 tokens.
    shares, lengths = Shares(8, processes=2, num_parts=2), [0, 9, 8, 7, 6, 4, 3, 2, 1]
    dealt = shares.dealt([1, 2, 3, 4, 5, 6, 7, 8], lengths)
    assert dealt == [[1, 8], [2, 7], [3, 6], [4, 5]]
    ranks = [Shares(8, processes=2, num_parts=2, rank=rank) for rank in (0, 1)]
    tokens = [sum(lengths[row] for row in rank.mine(dealt, part)) for rank in ranks for part in (0, 1)]
    assert tokens == [10, 10, 10, 10]


@given(st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 50), min_size=1, max_size=24))
def test_dealing_loses_no_row_and_leaves_the_sizes_of_the_parts(processes: int, parts: int, lengths: list[int]) -> None:
    size = processes * parts * -(-len(lengths) // (processes * parts))
    shares = [Shares(size, processes, parts, rank) for rank in range(processes)]
    minibatch = list(range(len(lengths)))
    dealt = shares[0].dealt(minibatch, lengths)
    assert sorted(row for part in dealt for row in part) == minibatch
    assert [len(part) for part in dealt] == [len(part) for part in shares[0].in_order(minibatch)]
    assert [share.mine(dealt, part) for share in shares for part in range(parts)] == dealt


def test_a_position_counts_the_micro_batches_of_a_rank() -> None:
    shares = Shares(12, processes=2, num_parts=3)
    assert [shares.place(position) for position in (0, 2, 3, 7)] == [(0, 0), (0, 2), (1, 0), (2, 1)]
    assert [shares.row(position) for position in (0, 2, 3, 7)] == [0, 0, 12, 24]


def test_a_run_goes_on_at_the_same_row_in_minibatches_of_another_size() -> None:
    # 24 rows were read, which are four minibatches of six, in two parts each.
    assert Shares(6, processes=1, num_parts=2).position(24, {"minibatch_size": 12}) == 8
    with pytest.raises(UserError, match=r"minibatch_size was 12 .* is 7 now, .* after the 24 rows .* divides 24"):
        Shares(7, processes=1, num_parts=1).position(24, {"minibatch_size": 12})


@pytest.mark.parametrize("size", [0, 5, 7])
def test_a_minibatch_that_cannot_be_shared_equally_is_an_error_with_all_numbers(size: int) -> None:
    with pytest.raises(UserError, match=rf"minibatch_size={size} .* 6 = 3 processes x accumulate_grad_batches=2"):
        Shares(size, processes=3, num_parts=2)


@pytest.mark.parametrize(
    ("rows", "shares", "size"),
    [(64, 1, 64), (65, 2, 64), (58, 1, 58), (58, 2, 58), (58, 4, 56), (58, 16, 48), (3, 3, 3), (5, 3, 3), (1, 1, 1)],
)
def test_a_minibatch_has_the_rows_that_there_are_in_equal_shares(rows: int, shares: int, size: int) -> None:
    with collected() as notes:
        assert filled(64, rows, shares) == size
    expected = [f"minibatch_size=64: there are only {rows} rows to train on, so a minibatch has {size}"]
    assert notes == (expected if rows < 64 else [])


def test_fewer_rows_than_shares_are_an_error_with_all_numbers() -> None:
    with pytest.raises(UserError, match="^minibatch_size=64, but there are only 3 rows to train on, fewer than the 4 "):
        filled(64, 3, 4)
