import math
from typing import Any

import pytest

from lightning_rlhf import TextReward
from lightning_rlhf.errors import UserError


def test_a_function_gets_the_columns_that_its_signature_names() -> None:
    def exact(prompts: list[str], responses: list[str], answer: list[str]) -> list[float]:
        return [float(given == wanted) for given, wanted in zip(responses, answer, strict=True)]

    columns = [{"answer": "4", "level": 1}, {"answer": "6", "level": 2}]
    assert TextReward(exact)(["2+2?", "2*3?"], ["4", "5"], columns) == [1.0, 0.0]


def test_a_function_that_takes_everything_gets_every_column() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(responses)

    TextReward(spy)(["a", "b"], ["c", "d"], [{"x": 1}, {"y": 2}])
    assert seen == {"x": [1, None], "y": [None, 2]}


def test_a_function_is_found_by_its_name() -> None:
    reward = TextReward("lightning_rlhf.demo.gold:gold")
    assert reward(["My door is stuck."], [""], [{}]) == [0.0]


def test_a_column_that_a_function_needs_and_the_data_lack_is_named_with_those_they_have() -> None:
    def exact(prompts: list[str], responses: list[str], answer: list[str], level: Any = None) -> list[float]:
        return [1.0]

    with pytest.raises(UserError, match="^exact needs the column answer; the data have messages, x$"):
        TextReward(exact)(["a"], ["b"], [{"x": 1, "messages": []}])
    assert TextReward(exact)(["a"], ["b"], [{"answer": "c"}]) == [1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gold", "write module:function"),
        ("no_such_module:gold", "cannot import 'no_such_module'"),
        ("lightning_rlhf.demo.gold:nothing", "has no function 'nothing'"),
        ("lightning_rlhf.demo.gold:CRITERIA", "has no function 'CRITERIA'"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextReward(name)


@pytest.mark.parametrize(
    ("scores", "message"), [([1.0], "returned 1 scores for 2 responses"), ([1.0, math.nan], "returned nan")]
)
def test_what_is_no_score_for_each_response_is_refused(scores: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextReward(lambda prompts, responses: scores)(["a", "b"], ["c", "d"], [{}, {}])
