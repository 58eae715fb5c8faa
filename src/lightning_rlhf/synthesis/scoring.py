"""A judge scores the answers that have no score yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.chat_models.grading import Grading
from lightning_rlhf.saving import write_rows
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.verdicts import Question, Verdict, ask_all, key_of

if TYPE_CHECKING:
    from lightning_rlhf.synthesis.judged_rows import Answer


class Scored(NamedTuple):
    """What became of the answers.

    Attributes:
        had_score: Number of answers that had a score, which they keep.
        scored: Number of answers that the judge has scored.
        unclear: Number of answers for which the judge gave no score in two attempts. They are left out.
        stopped: Why other answers are left out too; None if none is.
    """

    had_score: int
    scored: int
    unclear: int
    stopped: str | None


def question_about(client: ChatClient, grading: Grading, answer: "Answer") -> Question:
    """Makes the question for the score of an answer."""

    def ask() -> Verdict:
        grade = grading.grade(client, answer.prompt, answer.text)
        return {"score": grade.score, "replies": grade.replies, "tokens": list(grade.usage)}

    return Question(key_of("score", client.name, grading, answer.prompt, answer.text), ask)


def score_answers(
    client: ChatClient, grading: Grading, answers: "Sequence[Answer]", output: Path, verdicts: Journal
) -> Scored:
    """Writes the answers with their scores, in the order of the data.

    Args:
        client: The client of the judge.
        grading: How it grades.
        answers: The answers.
        output: The file of the rows, which is written in one step.
        verdicts: The file to which each verdict is appended.
    """
    questions = {
        place: question_about(client, grading, answer) for place, answer in enumerate(answers) if answer.score is None
    }
    found = ask_all(client, list(questions.values()), verdicts, "answers")
    rows: list[dict[str, Any]] = []
    unclear = 0
    for place, answer in enumerate(answers):
        score = answer.score
        if place in questions:
            verdict = found.of(questions[place])
            score = None if verdict is None else verdict["score"]
            unclear += verdict is not None and score is None
        if score is not None:
            rows.append({**answer.columns, "prompt": answer.prompt, "completion": answer.text, "score": score})
    write_rows(output, rows)
    had_score = len(answers) - len(questions)
    return Scored(had_score, len(rows) - had_score, unclear, found.stopped)
