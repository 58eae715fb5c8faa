"""Groups of responses are kept or dropped as a whole."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Scores
from lightning_rlhf.rollout.dropping import kept_rows


def samples(*dropped: int, mark: bool = True) -> Any:
    marks = torch.tensor(dropped, dtype=torch.bool)
    return SimpleNamespace(finished=marks, scores=Scores(torch.zeros(len(marks)), {}, dropped=marks if mark else None))


def test_a_group_is_dropped_with_any_of_its_responses() -> None:
    assert kept_rows(samples(0, 1, 0, 0, 1, 1), group_size=1) == [0, 2, 3]
    assert kept_rows(samples(0, 1, 0, 0, 1, 1), group_size=2) == [2, 3]
    assert kept_rows(samples(0, 0, 0, 0, 0, 1), group_size=3) == [0, 1, 2]
    assert kept_rows(samples(1, 1, mark=False), group_size=1) == [0, 1]


def test_an_iteration_without_any_score_is_an_error() -> None:
    with pytest.raises(UserError, match="^on_error=drop: the reward failed for 1 of the 2 responses of an iteration"):
        kept_rows(samples(1, 0), group_size=2)
