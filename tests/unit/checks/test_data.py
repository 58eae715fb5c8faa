"""Checks of pairs: what the length alone shows, and whether a reward model shows more."""

import pytest
import torch
from torch import Tensor, nn

from lightning_rlhf.checks.data import length_tells, tells_more_than_length
from lightning_rlhf.data.pairs import Pair
from lightning_rlhf.data.render import Rendered


def pair(chosen: int, rejected: int, first: int = 0) -> Pair:
    """Makes answers of the given numbers of tokens to a prompt of one token; the chosen one begins with `first`."""

    def rendered(length: int, token: int) -> Rendered:
        return Rendered([5, token, *[7] * (length - 1)], [False] + [True] * length)

    return Pair(rendered(chosen, first), rendered(rejected, 8), 0.0)


@pytest.mark.parametrize(
    ("pairs", "share", "status"),
    [
        ([pair(3, 2), pair(2, 3)], "50.0%", "ok"),
        ([pair(2, 2)], "50.0%", "ok"),
        ([pair(3, 2), pair(4, 1), pair(1, 2)], "66.7%", "warning"),
        ([pair(1, 2), pair(1, 4), pair(3, 2)], "33.3%", "warning"),
    ],
)
def test_pairs_in_which_the_length_tells_are_a_warning(pairs: list[Pair], share: str, status: str) -> None:
    finding = length_tells(pairs)
    assert finding.status == status
    assert share in finding.found


class Counts(nn.Module):
    """Scores a row by the number of times that it contains a token."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        return ((ids == self.token) & mask).sum(1).float()


PAIRS = [pair(4, 2, first=9), pair(4, 2, first=9), pair(2, 4, first=9)]


@pytest.mark.parametrize(
    ("token", "accuracy", "status"),
    # Token 9 begins each chosen answer, and token 7 occurs more often in the longer one.
    [(9, "1.000", "ok"), (7, "0.667", "error")],
)
def test_a_reward_model_that_counts_tokens_tells_no_more_than_length(token: int, accuracy: str, status: str) -> None:
    finding = tells_more_than_length(Counts(token), PAIRS, 2, torch.device("cpu"))
    assert finding.found == f"accuracy {accuracy} on 3 held-out pairs; the length alone reaches 0.667"
    assert finding.status == status
