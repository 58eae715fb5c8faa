import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

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


def scored(returned: object) -> list[float]:
    """Returns the scores of two responses, by a function that returns a given value."""
    return TextReward(lambda prompts, responses: returned)(["a", "b"], ["c", "d"], [{}, {}])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "returned",
    [
        [0, 1],
        (0.0, Fraction(1)),
        [False, True],
        np.array([0.0, 1.0], dtype=np.float32),
        torch.tensor([0, 1]),
        [np.float32(0), torch.tensor(1.0)],
    ],
)
def test_a_list_a_tuple_or_an_array_of_numbers_is_scores(returned: object) -> None:
    scores = scored(returned)
    assert scores == [0.0, 1.0]
    assert {type(score) for score in scores} == {float}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 scores for 2 responses"),
        ("11", "returned a value of type str; expected a list"),
        (b"11", "returned a value of type bytes"),
        ({0: "a", 1: "b"}, "returned a value of type dict"),
        ({0.0, 1.0}, "returned a value of type set"),
        ((score for score in (0.0, 1.0)), "returned a value of type generator"),
        (None, "returned a value of type NoneType"),
        (torch.ones(()) * math.nan, "returned a value of type Tensor"),
        ([1.0, math.nan], "returned nan for response 2 of 2, 'd'; a score is a finite number"),
        ([math.inf, 1.0], "returned inf for response 1 of 2, 'c'"),
        ([1.0, 10**400], "returned 1000"),
        ([1.0, 1e39], "returned 1e[+]39"),  # This number is infinite in fp32.
        (["1", "0"], "returned '1' for response 1 of 2, 'c'"),
        ([1.0, None], "returned None for response 2 of 2, 'd'"),
        ([1.0, 1j], "returned 1j"),
        ([[1.0], [0.0]], r"returned \[1.0\]"),
        (np.ones((2, 1)), r"returned \[1.0\]"),
        (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), r"returned \[1.0, 0.0\]"),
        (np.array(["1", "0"]), "returned '1'"),
    ],
)
def test_what_is_not_one_number_for_each_response_is_refused(returned: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scored(returned)
