"""Weights of tokens by hand, and the loss of a minibatch as each paper defines it, however the minibatch is split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.ops.aggregation import AGGREGATIONS, MinibatchSize
from lightning_rlhf.ops.masked import masked_sum

SIZE = MinibatchSize(num_sequences=4, num_tokens=8, max_length=5)
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        # Rows of three tokens, one and none, in a minibatch of 4 responses and 8 tokens, with at most 5 tokens each.
        ("token_mean", 1 / 8, 1 / 8),
        ("sequence_mean", 1 / 3 / 4, 1 / 4),
        ("fixed_length", 1 / (4 * 5), 1 / (4 * 5)),
    ],
)
def test_the_weights_by_hand(name: str, first: float, second: float) -> None:
    expected = torch.tensor([[first] * 3, [second, 0.0, 0.0], [0.0] * 3])
    assert_close(AGGREGATIONS[name](MASK, SIZE), expected)


def by_definition(name: str, losses: list[list[float]], max_length: int) -> float:
    """Computes the loss of a whole minibatch from the losses of the tokens of each response."""
    tokens = [loss for response in losses for loss in response]
    if name == "token_mean":
        return sum(tokens) / len(tokens)
    if name == "sequence_mean":
        return sum(sum(response) / len(response) for response in losses) / len(losses)
    return sum(sum(response) / max_length for response in losses) / len(losses)


@pytest.mark.parametrize("name", AGGREGATIONS)
@given(seed=st.integers(0, 999), lengths=st.lists(st.integers(1, 5), min_size=2, max_size=8), data=st.data())
def test_any_parts_of_a_minibatch_add_up_to_its_loss(
    name: str, seed: int, lengths: list[int], data: st.DataObject
) -> None:
    losses = torch.randn(len(lengths), 5, generator=torch.Generator().manual_seed(seed)).double()
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    size = MinibatchSize(len(lengths), sum(lengths), max_length=7)
    # Each row goes to one of three parts, and some parts may be empty.
    owner = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))))

    def part(rows: Tensor) -> Tensor:
        # As in training, a part has no more columns than it needs.
        width = max([1, *mask[rows].sum(1).tolist()])
        losses_here, mask_here = losses[rows, :width], mask[rows, :width]
        return masked_sum(losses_here * AGGREGATIONS[name](mask_here, size), mask_here)

    total = sum((part(owner == number) for number in range(3)), torch.zeros((), dtype=torch.float64))
    rows = [row[:length].tolist() for row, length in zip(losses, lengths, strict=True)]
    assert_close(total, torch.tensor(by_definition(name, rows, 7), dtype=torch.float64), rtol=1e-6, atol=1e-7)
