"""Responses for which a function fails are dropped, and no other source of a score replaces the one that is missing."""

from math import nan
from typing import Any

import pytest
import torch

from lightning_rlhf import TextReward, WeightedSum
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.build import as_reward

ROWS = {"How are you ?": "Fine .", "Who are you ?": "Nobody .", "Where are you ?": "Here ."}


def returning(*found: Any) -> Any:
    def score(prompts: list[str], responses: list[str]) -> Any:
        return list(found)

    return score


def failing(prompts: list[str], responses: list[str]) -> list[float]:
    raise ConnectionError("down")


@pytest.mark.parametrize(
    ("function", "scores", "dropped"),
    [
        (returning(1.0, nan, 3.0), [1, 0, 3], [False, True, False]),
        (returning(1.0, "2", None), [1, 0, 0], [False, True, True]),
        (returning(1.0, 2.0, 3.0), [1, 2, 3], [False] * 3),
        (returning(1.0, 2.0), [0, 0, 0], [True] * 3),
        (failing, [0, 0, 0], [True] * 3),
    ],
)
def test_a_response_without_a_finite_score_is_marked(
    function: Any, scores: list[float], dropped: list[bool], make_answers: Any, renderer: Renderer
) -> None:
    found = as_reward(TextReward(function, on_error="drop"), renderer)(make_answers(ROWS))
    assert found.whole.tolist() == scores
    assert found.dropped is not None
    assert found.dropped.tolist() == dropped
    if any(dropped):
        with pytest.raises(UserError):
            as_reward(TextReward(function), renderer)(make_answers(ROWS))


def test_a_sum_drops_what_one_of_its_parts_drops(make_answers: Any, renderer: Renderer) -> None:
    parts: dict[str, Any] = {
        "often": TextReward(returning(1.0, 2.0, None)),
        "flaky": TextReward(returning(nan, None, 10.0), on_error="drop"),
    }
    found = as_reward(WeightedSum(parts, {"often": 1.0, "flaky": 2.0}), renderer)(make_answers(ROWS))
    assert found.dropped is not None
    # None is no failure in a sum: the other part has a score.
    assert found.dropped.tolist() == [True, False, False]
    assert found.whole.tolist()[1:] == [2.0, 20.0]
    assert torch.isnan(found.parts["flaky"]).tolist() == [True, True, False]


def test_what_is_dropped_and_why_is_told(
    make_answers: Any, renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    as_reward(TextReward(failing, on_error="drop"), renderer)(make_answers(ROWS))
    as_reward(TextReward(returning(1.0, nan, 1.0), on_error="drop"), renderer)(make_answers(ROWS))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(
        "on_error=drop: 3 responses are dropped, because failing failed for a batch of 3 responses\n"
    )
    assert second.startswith(
        "on_error=drop: 1 response is dropped, because score returned nan for response 2 of 3, 'Nob"
    )


def test_a_column_that_the_data_lack_is_no_failure_of_the_function(make_answers: Any, renderer: Renderer) -> None:
    def score(prompts: list[str], responses: list[str], answer: list[str]) -> list[float]:
        return [1.0] * len(answer)

    with pytest.raises(UserError, match="^score needs the column answer"):
        as_reward(TextReward(score, on_error="drop"), renderer)(make_answers(ROWS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, "timeout=0: must be from 0.001 to 604800, or null"),
        ({"timeout": nan}, "timeout=nan: must be from"),
        ({"on_error": "skip"}, "on_error=skip: must be stop or drop"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        TextReward(failing, **settings)
