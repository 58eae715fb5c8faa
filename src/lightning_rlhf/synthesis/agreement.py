"""How well a judge agrees with people, before its verdicts are used."""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.chat_models.grading import Grading
from lightning_rlhf.console import three_decimals
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.report.intervals import wilson
from lightning_rlhf.report.kappa import cohens_kappa
from lightning_rlhf.synthesis import preferring, scoring
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.verdicts import ask_all

if TYPE_CHECKING:
    from lightning_rlhf.synthesis.judged_rows import Answer, Pair

_OUTCOMES = ("first", "second", "tie", "contradictory")


class Agreement(NamedTuple):
    """Agreement of two raters, with 95% intervals.

    Attributes:
        rows: Number of rows that both have rated.
        accuracy: Share of the rows that both rate in the same way.
        accuracy_low: Lower end of its interval (Wilson, 1927).
        accuracy_high: Upper end of its interval.
        kappa: Cohen's κ: the agreement beyond chance, where 1 is perfect and 0 is chance; NaN if chance alone agrees
            perfectly, because both raters gave a single rating.
        kappa_low: Lower end of its interval, from the asymptotic variance (Fleiss, Cohen and Everitt, 1969).
        kappa_high: Upper end of its interval.
        unclear: Number of rows without a verdict of the judge, which are left out.
    """

    rows: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    kappa: float
    kappa_low: float
    kappa_high: float
    unclear: int

    def told(self) -> str:
        """Describes the agreement in a line."""
        kappa = "undefined, since there is one rating only"
        if not math.isnan(self.kappa):
            kappa = f"{three_decimals(self.kappa)} ({_interval(self.kappa_low, self.kappa_high)})"
        accuracy = f"{three_decimals(self.accuracy)} ({_interval(self.accuracy_low, self.accuracy_high)})"
        return (
            f"agreement with people on {self.rows:,} rows: accuracy {accuracy}, Cohen's kappa {kappa}; "
            f"without a clear verdict: {self.unclear:,}"
        )


def agreement(
    first: Sequence[int], second: Sequence[int], num_ratings: int, *, ordered: bool, unclear: int = 0
) -> Agreement:
    """Computes the agreement of two raters.

    Args:
        first: The ratings of one rater, from 0 to `num_ratings` - 1.
        second: The ratings of the other, of the same rows.
        num_ratings: Number of possible ratings.
        ordered: Whether ratings that are close agree in part: κ then has quadratic weights (Cohen, 1968).
        unclear: Number of rows that are left out.

    Raises:
        UserError: If there are no rows, or statsmodels is not installed.
    """
    require("statsmodels", "langchain", "human")
    if not first:
        raise UserError("human: the judge gave no verdict on any row that people have labelled")
    accuracy = sum(map(int.__eq__, first, second)) / len(first)
    kappa = cohens_kappa(first, second, num_ratings, ordered=ordered)
    return Agreement(len(first), accuracy, *wilson(accuracy, len(first)), *kappa, unclear)


def agreement_of_scores(
    client: ChatClient, grading: Grading, answers: "Sequence[Answer]", verdicts: Journal
) -> Agreement:
    """Lets the judge score answers that people have scored. Scores are rounded to whole numbers.

    Raises:
        UserError: If a score of people is not on the scale, or the budget does not suffice.
    """
    for answer in answers:
        assert answer.score is not None
        if not grading.low <= answer.score <= grading.high:
            raise UserError(
                f"human: the score {answer.score:g} is not on the scale from {grading.low:g} to {grading.high:g}; set "
                "scale to that of the people"
            )
    questions = [scoring.question_about(client, grading, answer) for answer in answers]
    found = ask_all(client, questions, verdicts, "labelled answers")
    _check_all(found.stopped)
    lowest = round(grading.low)
    rated = [
        (round(answer.score or 0.0) - lowest, round(found.by_key[question.key]["score"]) - lowest)
        for answer, question in zip(answers, questions, strict=True)
        if found.by_key[question.key]["score"] is not None
    ]
    people, judge = [pair[0] for pair in rated], [pair[1] for pair in rated]
    count = round(grading.high) - lowest + 1
    return agreement(people, judge, count, ordered=True, unclear=len(answers) - len(rated))


def agreement_of_pairs(client: ChatClient, rubric: str, pairs: "Sequence[Pair]", verdicts: Journal) -> Agreement:
    """Lets the judge compare answers that people have compared. A tie, or a contradiction, agrees with nobody.

    Which answer is the first is drawn from the text of the pair, since otherwise people always prefer the first, and
    agreement by chance would look like none.
    """
    drawn = [_drawn(pair) for pair in pairs]
    questions = [preferring.question_about(client, rubric, pair) for pair, _ in drawn]
    found = ask_all(client, questions, verdicts, "labelled pairs")
    _check_all(found.stopped)
    people, judge = [], []
    for (_, label), question in zip(drawn, questions, strict=True):
        what = preferring.outcome(found.by_key[question.key])
        if what != "unclear":
            people.append(_OUTCOMES.index(label))
            judge.append(_OUTCOMES.index(what))
    return agreement(people, judge, len(_OUTCOMES), ordered=False, unclear=len(pairs) - len(people))


def _drawn(pair: "Pair") -> "tuple[Pair, str]":
    """A pair in an order that its text determines, and which of its answers people prefer."""
    digest = hashlib.blake2b("\0".join(sorted((pair.first, pair.second))).encode(), digest_size=1).digest()
    swap = bool(digest[0] % 2) == (pair.first < pair.second)
    return (pair._replace(first=pair.second, second=pair.first), "second") if swap else (pair, "first")


def _check_all(stopped: str | None) -> None:
    if stopped is not None:
        raise UserError(f"human: {stopped}, before the judge has seen all rows; use fewer of them, or a larger budget")


def _interval(low: float, high: float) -> str:
    return f"95% interval {three_decimals(low)} to {three_decimals(high)}"
