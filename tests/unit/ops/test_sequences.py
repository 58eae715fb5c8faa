"""Masks and positions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_rlhf.ops.sequences import position_ids, response_mask, used_columns


def test_positions_count_real_tokens_only() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]).bool()
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 0, 0], [0, 0, 1, 2, 0]]


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=4), st.sets(st.integers(0, 5))
)
def test_a_response_ends_with_its_first_stop_token(rows: list[list[int]], stops: set[int]) -> None:
    mask = response_mask(torch.tensor(rows), torch.tensor(sorted(stops), dtype=torch.long))
    lengths = [next((place + 1 for place, token in enumerate(row) if token in stops), len(row)) for row in rows]
    assert mask.tolist() == [[place < length for place in range(6)] for length in lengths]


def test_used_columns_reach_from_the_first_to_the_last_used_one() -> None:
    mask = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]).bool()
    assert used_columns(mask) == slice(2, 5)
    assert used_columns(torch.ones(2, 3).bool()) == slice(0, 3)
    assert used_columns(torch.zeros(2, 3).bool()) == slice(0, 1)
