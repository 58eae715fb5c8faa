"""Verdicts of a chat model in both orders, and of functions of texts."""

import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf import TextReward
from lightning_rlhf.chat_models.budget import Budget, Usage
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.evaluation.verdicts import JudgeVerdicts, gold_scores
from lightning_rlhf.evaluation.verdicts import judge_verdicts as judged_into
from lightning_rlhf.synthesis.verdicts import open_verdicts


def judge_verdicts(client: Any, rubric: str, rows: Sequence[Answered], folder: Path | None = None) -> JudgeVerdicts:
    """Judges answers; the verdicts are kept in a folder, or in none."""
    with (
        tempfile.TemporaryDirectory() as other,
        closing(open_verdicts((folder or Path(other)) / "judge.jsonl", client, "answers=x")) as journal,
    ):
        return judged_into(client, rubric, rows, journal)


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


def test_verdicts_survive_a_stop_and_are_asked_for_once(
    make_row: Callable, make_client: Callable, tmp_path: Path
) -> None:
    rows = [make_row("kind", "rude"), make_row("rude", "kind"), make_row("kind", "odd")]

    def breaks(messages: Any) -> str:
        if "odd" in str(messages):
            raise KeyboardInterrupt
        return likes("kind")(messages)

    with pytest.raises(KeyboardInterrupt):
        judge_verdicts(make_client(breaks), "kindness", rows, tmp_path)
    client = make_client(likes("kind"))
    assert judge_verdicts(client, "kindness", rows, tmp_path).verdicts == [1.0, 0.0, 1.0]
    assert len(client.model.asked) == 2
    assert all("odd" in str(messages) for messages in client.model.asked)


def test_a_spent_budget_says_how_to_go_on(make_row: Callable, make_client: Callable, tmp_path: Path) -> None:
    client = make_client(likes("kind"))
    client = replace(client, budget=Budget(max_tokens=1))
    client.budget.restore(Usage(1, 0))
    with pytest.raises(
        UserError, match="^judge.max_tokens=1 would be exceeded .*answers=.* and a larger budget go on$"
    ):
        judge_verdicts(client, "kindness", [make_row("kind", "rude")], tmp_path)
