"""The shaping of scores: each option by hand, their order, and settings that are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.errors import UserError
from lightning_rlhf.ops.moments import Moments
from lightning_rlhf.rollout.shaping import RewardShaping, shape_scores

# The mean is 4, and the population standard deviation is sqrt(36 / 9) = 2.
MOMENTS = Moments(9, 4.0, 36.0)


def shaped(scores: list[float], *, lengths: list[int], finished: list[bool], **settings: Any) -> Tensor:
    return shape_scores(
        torch.tensor(scores),
        torch.tensor(lengths),
        torch.tensor(finished),
        RewardShaping(**settings),
        moments=MOMENTS,
        max_length=8,
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Scores 6, -1, 0 of responses of 2, 6 and 8 tokens, the last of which was cut.
        ({}, [6.0, -1.0, 0.0]),
        ({"normalize": True}, [1.0, -2.5, -2.0]),
        ({"clip": 0.5}, [0.5, -0.5, 0.0]),
        ({"missing_eos_score": -3.0}, [6.0, -1.0, -3.0]),
        ({"missing_eos_penalty": 2.0}, [6.0, -1.0, -2.0]),
        ({"length_penalty": 0.5}, [5.0, -4.0, -4.0]),
        # There is no penalty up to 8 - 4 tokens, half of it at 6 tokens, and all of it at 8.
        ({"overlong_buffer": 4}, [6.0, -1.5, -1.0]),
        ({"overlong_buffer": 4, "overlong_penalty": 3.0}, [6.0, -2.5, -3.0]),
        # Whitening applies to the rewards of tokens, not to scores.
        ({"whiten": True}, [6.0, -1.0, 0.0]),
    ],
)
def test_each_option_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    scores = shaped([6.0, -1.0, 0.0], lengths=[2, 6, 8], finished=[True, True, False], **settings)
    assert_close(scores, torch.tensor(expected))


def test_a_score_is_normalised_before_it_is_clipped_and_punished_after_that() -> None:
    settings = {"normalize": True, "clip": 1.5, "length_penalty": 0.25, "overlong_buffer": 2}
    # (10 - 4) / 2 = 3, clipped to 1.5, and 2 tokens cost 0.5. (0 - 4) / 2 = -2, clipped to -1.5, minus the penalty for
    # a missing end, 1, minus 8 · 0.25 and the whole over-long penalty, 1: none of them is clipped.
    scores = shaped([10.0, 0.0], lengths=[2, 8], finished=[True, False], missing_eos_penalty=1.0, **settings)
    assert_close(scores, torch.tensor([1.0, -5.5]))


def test_the_score_for_a_missing_end_is_neither_normalised_nor_clipped() -> None:
    settings = {"normalize": True, "clip": 1.5, "length_penalty": 0.25}
    scores = shaped([10.0, 0.0], lengths=[2, 8], finished=[True, False], missing_eos_score=-4.0, **settings)
    assert_close(scores, torch.tensor([1.0, -6.0]))


def test_scores_that_are_all_the_same_normalise_to_0() -> None:
    scores, ends = torch.full((3,), 0.1), torch.ones(3, dtype=torch.bool)
    moments = Moments(3, float(scores.double().mean()), 0.0)
    shaping = RewardShaping(normalize=True)
    assert_close(shape_scores(scores, torch.ones(3), ends, shaping, moments=moments, max_length=4), torch.zeros(3))


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        RewardShaping(
            clip=0.0, missing_eos_score=-1.0, missing_eos_penalty=-2.0, length_penalty=-0.1, overlong_penalty=-3.0
        )
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "shaping.clip=0.0",
        "shaping.missing_eos_score=-1.0 and missing_eos_penalty=-2.0",
        "shaping.missing_eos_penalty=-2.0",
        "shaping.length_penalty=-0.1",
        "shaping.overlong_penalty=-3.0",
    ]


@pytest.mark.parametrize("buffer", [8, 9])
def test_a_buffer_that_leaves_nothing_of_the_longest_response_is_refused(buffer: int) -> None:
    with pytest.raises(UserError, match=f"overlong_buffer={buffer} leaves nothing of max_new_tokens=8"):
        RewardShaping(overlong_buffer=buffer).check_limit(8)
    RewardShaping(overlong_buffer=7).check_limit(8)
