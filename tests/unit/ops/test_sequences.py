"""Masks and positions."""

import torch

from lightning_rlhf.ops.sequences import position_ids, response_mask, used_columns


def test_positions_count_real_tokens_only() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]]).bool()
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 0, 0], [0, 0, 1, 2, 0]]


def test_a_response_is_marked_from_its_first_token_to_its_last() -> None:
    mask = response_mask(torch.tensor([1, 4, 3]), 4)
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]


def test_used_columns_reach_from_the_first_to_the_last_used_one() -> None:
    mask = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]).bool()
    assert used_columns(mask) == slice(2, 5)
    assert used_columns(torch.ones(2, 3).bool()) == slice(0, 3)
    assert used_columns(torch.zeros(2, 3).bool()) == slice(0, 1)
