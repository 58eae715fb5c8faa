"""Verdicts about the answers of two models, from a reward model, a function of texts, or a chat model."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.data.messages import Message
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.evaluation.scoring import rendered, score_ids
from lightning_rlhf.evaluation.win_rates import LOSS, TIE, WIN
from lightning_rlhf.rewards.build import LoadedReward
from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.judged_rows import Pair
from lightning_rlhf.synthesis.preferring import outcome, question_about
from lightning_rlhf.synthesis.verdicts import ask_all

# Where the orders disagree, neither answer is better.
_MEANINGS: dict[str, float | None] = {"first": WIN, "second": LOSS, "tie": TIE, "contradictory": TIE, "unclear": None}


class JudgeVerdicts(NamedTuple):
    """What a chat model says about the answers, asked in both orders."""

    verdicts: list[float | None]
    """The verdict on each row: a tie if the two orders disagree, None if there is none."""
    disagreements: list[int]
    """Rows on which the two orders disagree."""
    unreadable: list[int]
    """Rows on which the model gave no verdict in two attempts."""
    first_wins: float | None
    """Share of the verdicts other than ties for the answer that came first; 0.5 for a judge that does not mind the
    order. None if there are only ties."""


def reward_scores(reward: LoadedReward, rows: Sequence[Answered], name: str) -> tuple[list[float], list[float]]:
    """Scores the answers of both models.

    Args:
        reward: A reward model, in evaluation mode.
        rows: The answers.
        name: Name of the reward model for messages.

    Returns:
        The scores of model a, and those of model b.

    Raises:
        UserError: If the reward model cannot read an answer.
    """
    replies = [*((row, row.a) for row in rows), *((row, row.b) for row in rows)]
    conversations = [[*row.messages, Message(role="assistant", content=reply.text)] for row, reply in replies]
    texts = rendered(reward, conversations, [reply.finish_reason == "stop" for _, reply in replies])
    for (row, _), text in zip(replies, texts, strict=True):
        if isinstance(text, UserError):
            raise UserError(f"reward_model={name}: {text}, for the prompt {row.question[:80]!r}")
    scores = score_ids(reward, [text.ids for text in texts if not isinstance(text, UserError)])
    return scores[: len(rows)], scores[len(rows) :]


def gold_scores(gold: TextReward, rows: Sequence[Answered]) -> tuple[list[float], list[float]]:
    """Scores the answers of both models with a function of texts, which also gets the columns of the prompts.

    Returns:
        The scores of model a, and those of model b.

    Raises:
        UserError: If the function fails, or returns anything but one number for each answer.
    """
    questions = [row.question for row in rows]
    sides = []
    for replies in ([row.a for row in rows], [row.b for row in rows]):
        columns = [
            {**row.columns, "messages": row.messages, "finished": reply.finish_reason == "stop"}
            for row, reply in zip(rows, replies, strict=True)
        ]
        sides.append(gold(questions, [reply.text for reply in replies], columns))
    return sides[0], sides[1]


def judge_verdicts(client: ChatClient, rubric: str, rows: Sequence[Answered], journal: Journal) -> JudgeVerdicts:
    """Asks a chat model which answer is better, once in each order. Equal answers are a tie without a question.

    Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (2023), section 3.4, which swaps the
    answers and counts a disagreement as a tie.

    Args:
        client: The client of the chat model.
        rubric: What makes an answer better, in words that the model reads.
        rows: The answers.
        journal: The verdicts that there are already, to which each new one is appended.

    Raises:
        UserError: If the model cannot be reached, never gives a verdict, or has spent its budget.
    """
    pairs = {
        number: Pair(row.messages, row.a.text, row.b.text, {})
        for number, row in enumerate(rows)
        if row.a.text != row.b.text
    }
    questions = {number: question_about(client, rubric, pair) for number, pair in pairs.items()}
    found = ask_all(client, list(questions.values()), journal, "verdicts")
    if found.stopped is not None:
        raise UserError(
            f"judge.{found.stopped}, before all answers are judged; the verdicts so far are in {journal.file}: "
            f"answers={journal.file.parent} and a larger budget go on"
        )
    said = {number: found.by_key[question.key] for number, question in questions.items()}
    if said and not any(one["forward"] or one["backward"] for one in said.values()):
        reply = next(iter(said.values()))["replies"][0]
        raise UserError(f"judge.model={client.name}: no reply ends with a verdict; the first is {reply[:300]!r}")
    outcomes = {number: outcome(one) for number, one in said.items()}
    # The answer that came first is `first` in the forward order and `second` in the other.
    shown_first = [one["forward"] == "first" for one in said.values() if one["forward"] in ("first", "second")]
    shown_first += [one["backward"] == "second" for one in said.values() if one["backward"] in ("first", "second")]
    return JudgeVerdicts(
        [_MEANINGS[outcomes[number]] if number in outcomes else TIE for number in range(len(rows))],
        disagreements=[number for number, what in outcomes.items() if what == "contradictory"],
        unreadable=[number for number, what in outcomes.items() if what == "unclear"],
        first_wins=sum(shown_first) / len(shown_first) if shown_first else None,
    )
