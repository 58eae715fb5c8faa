"""A judge compares two answers to each prompt, in both orders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.chat_models.comparing import compare
from lightning_rlhf.saving import write_rows
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.verdicts import Question, Verdict, ask_all, key_of

if TYPE_CHECKING:
    from lightning_rlhf.synthesis.judged_rows import Pair


class Preferred(NamedTuple):
    """What became of the pairs.

    Attributes:
        decided: Number of pairs of which the same answer is better in both orders.
        tied: Number of pairs whose answers are equally good in both orders.
        contradictory: Number of pairs about which the judge says something else in the other order.
        unclear: Number of pairs for which the judge gave no verdict, in one order at least. They are left out.
        stopped: Why other pairs are left out too; None if none is.
    """

    decided: int
    tied: int
    contradictory: int
    unclear: int
    stopped: str | None


def question_about(client: ChatClient, rubric: str, pair: "Pair") -> Question:
    """Makes the question which answer of a pair is better."""

    def ask() -> Verdict:
        found = compare(client, pair.prompt, pair.first, pair.second, rubric)
        return {
            "forward": found.forward,
            "backward": found.backward,
            "replies": found.replies,
            "tokens": list(found.usage),
        }

    return Question(key_of("compare", client.name, rubric, pair.prompt, pair.first, pair.second), ask)


def outcome(verdict: Verdict) -> str:
    """Returns `first`, `second` or `tie` if both orders agree, and otherwise `contradictory` or `unclear`."""
    forward, backward = verdict["forward"], verdict["backward"]
    if forward is None or backward is None:
        return "unclear"
    return str(forward) if forward == backward else "contradictory"


def prefer(
    client: ChatClient, rubric: str, pairs: "Sequence[Pair]", output: Path, undecided: Path, verdicts: Journal
) -> Preferred:
    """Writes the pairs whose better answer is clear, and beside them those whose answers tie or contradict each other.

    Args:
        client: The client of the judge.
        rubric: The criteria, in words that the judge reads.
        pairs: The pairs.
        output: The file of decided pairs, which is written in one step.
        undecided: The file of the others, with the verdict in each order.
        verdicts: The file to which each verdict is appended.
    """
    questions = [question_about(client, rubric, pair) for pair in pairs]
    found = ask_all(client, questions, verdicts, "pairs")
    decided: list[dict[str, Any]] = []
    open_rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for pair, question in zip(pairs, questions, strict=True):
        verdict = found.of(question)
        if verdict is None:
            continue
        what = outcome(verdict)
        counts[what] += 1
        row = {**pair.columns, "prompt": pair.prompt}
        if what in ("first", "second"):
            chosen, rejected = (pair.first, pair.second) if what == "first" else (pair.second, pair.first)
            decided.append({**row, "chosen": chosen, "rejected": rejected})
        elif what != "unclear":
            answers = {"first": pair.first, "second": pair.second}
            open_rows.append({**row, **answers, "forward": verdict["forward"], "backward": verdict["backward"]})
    write_rows(output, decided)
    write_rows(undecided, open_rows)
    return Preferred(len(decided), counts["tie"], counts["contradictory"], counts["unclear"], found.stopped)
