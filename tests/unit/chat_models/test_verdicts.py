"""What judges are asked, and how their verdicts are read."""

from collections.abc import Callable
from typing import Any

import pytest
from openai_server import OpenAIServer

from lightning_rlhf.chat_models.budget import Usage
from lightning_rlhf.chat_models.comparing import compare, side_in
from lightning_rlhf.chat_models.grading import Grading

PROMPT = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Fair.\nScore: 4", 4.0),
        ("**Score:** 4.5/5", 4.5),
        ("Score: 0", 0.0),
        ("Score: 6", None),
        ("Score: four", None),
        ("Score: 4/10", None),
        ("Score: 4\nBut I may be wrong.", None),
        ("", None),
    ],
)
def test_a_score_is_read_from_the_last_line_alone(reply: str, score: float | None) -> None:
    assert Grading().score_in(reply) == score


@pytest.mark.parametrize(
    ("reply", "side"),
    [
        ("A is longer.\nBetter: B", "second"),
        ("better: **a**", "first"),
        ("**Better: answer A**", "first"),
        ("Better: Tie.", "tie"),
        ("Better: A or B", None),
        ("Better: C", None),
        ("I prefer A", None),
        ("Better: A\nOr not.", None),
    ],
)
def test_the_better_answer_is_read_from_the_last_line_alone(reply: str, side: str | None) -> None:
    assert side_in(reply) == side


def test_a_grade_counts_the_tokens_of_both_attempts(server: OpenAIServer, make_client: Callable[..., Any]) -> None:
    server.say = lambda messages: "five of five" if len(messages) == 2 else "Score: 5"
    grade = Grading().grade(make_client(), PROMPT, "So.")
    assert grade.score == 5
    assert grade.replies == ["five of five", "Score: 5"]
    read = sum(len(message["content"].split()) for request in server.requests for message in request["messages"])
    assert grade.usage == Usage(read, 5)


def test_a_template_with_places_is_the_question_itself() -> None:
    grading = Grading("Q: {user_input}\nA: {completion}\nIs it rude?")
    # A conversation may contain the name of a place.
    messages = [{"role": "user", "content": "Say {completion}"}]
    (_, form), (_, question) = grading.chat(messages, "{user_input}")
    assert question == "Q: user: Say {completion}\nA: {user_input}\nIs it rude?"
    assert '"Score:" and a number from 0 (worst) to 5' in form


def longer(messages: list[dict[str, str]]) -> str:
    """A judge that prefers the longer answer."""
    text = messages[-1]["content"]
    first = text.partition("<answer_A>")[2].partition("</answer_A>")[0]
    second = text.partition("<answer_B>")[2].partition("</answer_B>")[0]
    return f"Better: {'A' if len(first) > len(second) else 'B'}"


def test_both_orders_are_asked_and_the_verdicts_name_the_answers(
    server: OpenAIServer, make_client: Callable[..., Any]
) -> None:
    server.say = longer
    found = compare(make_client(), PROMPT, "short", "much longer")
    assert (found.forward, found.backward) == ("second", "second")
    shown = [request["messages"][-1]["content"] for request in server.requests]
    assert [text.index("short") < text.index("much longer") for text in shown] == [True, False]


def test_a_judge_that_always_takes_the_first_answer_contradicts_itself(
    server: OpenAIServer, make_client: Callable[..., Any]
) -> None:
    server.say = lambda messages: "Better: A"
    found = compare(make_client(), PROMPT, "one", "two")
    assert (found.forward, found.backward) == ("first", "second")


def test_a_verdict_that_is_none_twice_is_missing(server: OpenAIServer, make_client: Callable[..., Any]) -> None:
    server.say = lambda messages: "I cannot"
    found = compare(make_client(), PROMPT, "one", "two")
    assert (found.forward, found.backward) == (None, None)
    assert len(server.requests) == 4
