"""Rules that verify a response."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from lightning_rlhf import TextReward
from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.rules import ExactAnswer, Length, Pattern


def score(rule: Callable[..., list[float]], response: str, **columns: Any) -> float:
    """Returns the score of a rule for one response, calling it as PPO does."""
    (result,) = TextReward(rule)(["Why?"], [response], [{"messages": [], **columns}])
    return result


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("Paris", "Paris", 1),
        ("  paris\n", "PARIS", 1),
        ("New\n York", "new york", 1),
        ("Paris.", "Paris", 0),
        ("42", "42.0", 1),
        ("42", 42, 1),
        ("4.20e1", "42", 1),
        ("1,234,567", "1234567", 1),
        ("1,23", "123", 0),
        ("12,3456", "123456", 0),
        ("42", "43", 0),
        ("nan", "NaN", 1),
        ("", "42", 0),
    ],
)
def test_an_answer_is_compared_without_case_and_spacing_and_as_a_number(
    response: str, answer: Any, expected: float
) -> None:
    assert score(ExactAnswer(), response, answer=answer) == expected


@pytest.mark.parametrize(
    ("pattern", "response", "expected"),
    [
        (r"#### *(.+)", "2 + 2 = 5?\n#### 5\nNo.\n#### 4", 1),
        (r"#### *(.+)", "#### 4\nNo.\n#### 5", 0),
        (r"#### *(.+)", "It is 4", 0),
        (r"-?\d+", "I say 4.", 1),
        (r"answer: (\d+)|nothing", "answer: 4, or nothing", 0),
    ],
)
def test_a_pattern_finds_the_last_answer_in_a_response(pattern: str, response: str, expected: float) -> None:
    assert score(ExactAnswer(pattern=pattern), response, answer="4") == expected


def test_a_pattern_finds_the_answer_in_the_column_too() -> None:
    rule = ExactAnswer("solution", pattern=r"#### *(.+)")
    assert score(rule, "So it is\n#### 4", solution="2 and 2\n#### 4") == 1
    assert score(rule, "So it is\n#### 5", solution="2 and 2\n#### 4") == 0


def test_a_column_of_answers_that_is_missing_or_has_a_gap_is_an_error() -> None:
    with pytest.raises(UserError, match="^column=answer: the data have level, messages$"):
        score(ExactAnswer(), "4", level=1)
    with pytest.raises(UserError, match="^column=answer: None for the prompt 'b'; expected a text or a number"):
        TextReward(ExactAnswer())(["a", "b"], ["4", "4"], [{"answer": 4}, {"other": 1}])


@pytest.mark.parametrize("answer", ["", " ", float("nan"), [4], {"text": "4"}])
def test_a_response_is_never_right_for_want_of_an_answer_to_compare_with(answer: object) -> None:
    with pytest.raises(UserError, match="^column=answer: .*expected a text or a number"):
        score(ExactAnswer(), str(answer), answer=answer)


@pytest.mark.parametrize(
    ("rule", "response", "expected"),
    [
        (Pattern(r"\bsorry\b"), "I am sorry.", 1),
        (Pattern(r"\bsorry\b"), "I am Sorry.", 0),
        (Pattern(r"^\d+$"), "a 12", 0),
        (Pattern(r"sorry", wanted=False), "I am sorry.", 0),
        (Pattern(r"sorry", wanted=False), "I am not.", 1),
        (Length(maximum=3), "one two\nthree", 1),
        (Length(maximum=2), "one two\nthree", 0),
        (Length(minimum=4), "one two\nthree", 0),
        (Length(minimum=3), "one two\nthree", 1),
        (Length(maximum=5, unit="characters"), "12345", 1),
        (Length(maximum=5, unit="characters"), "123456", 0),
        (Length(minimum=1), "", 0),
    ],
)
def test_a_rule_gives_1_if_it_holds_and_else_0(
    rule: Callable[..., list[float]], response: str, expected: float
) -> None:
    assert score(rule, response) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactAnswer(pattern="("), "pattern=(: not a regular expression"),
        (lambda: Pattern("["), "pattern=[: not a regular expression"),
        (lambda: Length(minimum=5, maximum=4), "maximum=4: less than minimum=5"),
    ],
)
def test_an_impossible_rule_is_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        make()
