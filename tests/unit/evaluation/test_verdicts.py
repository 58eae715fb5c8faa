"""Verdicts of a chat model in both orders, and of functions of texts."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from lightning_rlhf import TextReward
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.verdicts import gold_scores, judge_verdicts


def answers_in(messages: Any) -> list[str]:
    """The answers that a judge is shown, in their order."""
    return re.findall(r"<answer_[AB]>\n(.*?)\n</answer_[AB]>", str(messages[-1].content), re.DOTALL)


def likes(word: str) -> Callable[[Any], str]:
    """A judge that prefers the answer with a word."""

    def reply(messages: Any) -> str:
        first, second = (word in answer for answer in answers_in(messages))
        return f"Better: {'tie' if first == second else 'A' if first else 'B'}"

    return reply


def test_each_pair_is_judged_in_both_orders(make_row: Callable, make_client: Callable) -> None:
    client = make_client(likes("kind"))
    rows = [make_row("kind", "rude"), make_row("rude", "kind"), make_row("one", "two")]
    found = judge_verdicts(client, "kindness", rows)
    assert found.verdicts == [1.0, 0.0, 0.5]
    assert (found.disagreements, found.unreadable) == ([], [])
    assert [answers_in(messages) for messages in client.model.asked[:2]] == [["kind", "rude"], ["rude", "kind"]]
    assert "What counts: kindness" in client.model.asked[0][0].content


def test_a_judge_that_takes_the_first_answer_finds_no_difference(make_row: Callable, make_client: Callable) -> None:
    found = judge_verdicts(make_client(lambda _: "Better: A"), "length", [make_row("x", "y"), make_row("y", "z")])
    assert found.verdicts == [0.5, 0.5]
    assert found.disagreements == [0, 1]
    assert found.first_wins == 1.0
    fair = judge_verdicts(make_client(likes("x")), "length", [make_row("x", "y"), make_row("y", "x")])
    assert fair.first_wins == 0.5


def test_a_tie_in_one_order_is_a_disagreement(make_row: Callable, make_client: Callable) -> None:
    found = judge_verdicts(
        make_client(lambda messages: "Better: A" if answers_in(messages)[0] == "x" else "Better: tie"),
        "anything",
        [make_row("x", "y")],
    )
    assert (found.verdicts, found.disagreements) == ([0.5], [0])


def test_a_row_without_a_verdict_counts_nowhere(make_row: Callable, make_client: Callable) -> None:
    def reply(messages: Any) -> str:
        return "I cannot say." if "odd" in str(messages) else likes("x")(messages)

    found = judge_verdicts(make_client(reply), "anything", [make_row("odd", "y"), make_row("x", "y")])
    assert (found.verdicts, found.unreadable) == ([None, 1.0], [0])
    with pytest.raises(UserError, match="judge.model=says: no reply ends with a verdict; the first is 'I cannot say.'"):
        judge_verdicts(make_client(lambda _: "I cannot say."), "anything", [make_row("x", "y")])


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(make_row: Callable, make_client: Callable) -> None:
    client = make_client(likes("x"))
    found = judge_verdicts(client, "anything", [make_row("same", "same")])
    assert (found.verdicts, client.model.asked, found.first_wins) == ([0.5], [], None)


def test_the_gold_function_gets_the_columns_of_the_prompts(make_row: Callable) -> None:
    def gold(prompts: list[str], responses: list[str], answer: list[str], finished: list[bool]) -> list[float]:
        assert prompts == ["2 + 2?", "1 + 1?"]
        assert finished == [True, True]
        return [float(response == right) for response, right in zip(responses, answer, strict=True)]

    rows = [make_row("4", "5", "2 + 2?", answer="4"), make_row("3", "2", "1 + 1?", answer="2")]
    assert gold_scores(TextReward(gold), rows) == ([1.0, 0.0], [0.0, 1.0])
