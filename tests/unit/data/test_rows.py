"""Rows of Arrow tables are read correctly, however the table is cut."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.data.kinds import conversation_row, stretches
from lightning_rlhf.data.rows import Rows

# The table has three record batches; one of them is empty, and one is cut out of a longer one.
TABLE = pa.concat_tables(
    [
        pa.table({"ids": pa.array([[5], [6, 7]], pa.list_(pa.uint16())), "score": [0.5, 1.5]}),
        pa.table({"ids": pa.array([], pa.list_(pa.uint16())), "score": pa.array([], pa.float64())}),
        pa.table({"ids": pa.array([[1], [], [8, 9, 10]], pa.list_(pa.uint16())), "score": [9.0, 2.5, 3.5]}).slice(1),
    ]
)


def row(ids: np.ndarray, score: float) -> tuple[list[int], float]:
    return ids.tolist(), score


ROWS = [([5], 0.5), ([6, 7], 1.5), ([], 2.5), ([8, 9, 10], 3.5)]


def test_a_row_is_the_same_whichever_record_batch_it_lies_in() -> None:
    rows = Rows(TABLE, row)
    assert list(rows) == ROWS
    assert [rows[number] for number in (3, 0, -1)] == [ROWS[3], ROWS[0], ROWS[3]]
    with pytest.raises(IndexError):
        rows[4]


def test_some_of_the_rows_are_rows_again() -> None:
    rows = Rows(TABLE, row).at(np.asarray([3, 1, 0]))
    assert list(rows[1:]) == [ROWS[1], ROWS[0]]
    assert rows[1:].numbers("score").tolist() == [1.5, 0.5]


def test_the_arrays_of_a_row_lie_in_its_table() -> None:
    ids = Rows(TABLE, lambda ids: ids)[1]
    assert not ids.flags.owndata
    assert ids.dtype == np.uint16


@given(st.lists(st.booleans(), max_size=12))
def test_what_is_learnt_comes_back_from_where_it_begins_and_ends(mask: list[bool]) -> None:
    found = conversation_row(np.zeros(len(mask), dtype=np.uint16), np.asarray(stretches(mask), dtype=np.int32))
    assert found.loss_mask.tolist() == mask


def test_stretches_begin_and_end() -> None:
    assert stretches([False, True, True, False, True]) == [1, 3, 4, 5]
