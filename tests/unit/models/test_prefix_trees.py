"""Rows that begin alike, written as trees."""

import numpy as np
import pytest

from lightning_rlhf.models.prefix_trees import Tree, layout, neighbours, trees

# In their order: 1 2, 1 2 3 300, 1 2 5, 9 9.
ROWS = [np.array(row) for row in ([1, 2, 5], [9, 9], [1, 2, 3, 300], [1, 2])]
LENGTHS = [3, 2, 4, 2]


def test_neighbours_have_the_order_of_their_tokens() -> None:
    assert neighbours(ROWS) == ([3, 2, 0, 1], [0, 2, 2, 0])
    # 300 is larger than 5, although its last byte is 44 and its first is zero.
    assert neighbours([np.array([300]), np.array([5])]) == ([1, 0], [0, 0])
    assert neighbours([np.array([4, 5])] * 2) == ([0, 1], [0, 2])


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [Tree([3], [0], 2), Tree([2], [0], 4), Tree([0], [0], 3), Tree([1], [0], 2)]),
        (2, [Tree([3, 2], [0, 2], 4), Tree([0], [0], 3), Tree([1], [0], 2)]),
        (4, [Tree([3, 2, 0], [0, 2, 2], 5), Tree([1], [0], 2)]),
    ],
)
def test_trees_have_as_many_rows_as_they_may(most: int, expected: list[Tree]) -> None:
    assert trees(neighbours(ROWS), LENGTHS, most) == expected


def test_a_row_that_shares_less_than_a_tenth_begins_a_tree() -> None:
    rows = [np.array([1, *[number] * 10]) for number in (2, 3)]
    assert [tree.rows for tree in trees(neighbours(rows), [11, 11], 2)] == [[0], [1]]
    rows = [np.array([1, *[number] * 9]) for number in (2, 3)]
    assert [tree.rows for tree in trees(neighbours(rows), [10, 10], 2)] == [[0, 1]]


def test_each_token_ends_with_the_last_row_that_contains_it() -> None:
    found = layout(ROWS, trees(neighbours(ROWS), LENGTHS, 4), [0, 5], 8)
    #                                  1  2  3 300 5  9  9  -
    assert found.ids.tolist() == [1, 2, 3, 300, 5, 9, 9, 0]
    assert found.positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 0]
    assert found.ends.tolist() == [5, 5, 4, 4, 5, 7, 7, 8]
    assert [places.tolist() for places in found.places] == [[0, 1, 4], [5, 6], [0, 1, 2, 3], [0, 1]]
