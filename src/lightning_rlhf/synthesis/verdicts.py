"""Asks a judge about many answers, and keeps each verdict as soon as it is there."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.chat_models.budget import BudgetSpent, Usage
from lightning_rlhf.chat_models.client import ChatClient
from lightning_rlhf.synthesis.journal import Journal
from lightning_rlhf.synthesis.progress import CostProgress

Verdict = dict[str, Any]


class Question(NamedTuple):
    """Something that a judge is asked."""

    key: str
    """Names everything on which the verdict depends; equal questions are asked once."""
    ask: Callable[[], Verdict]
    """Asks the judge."""


class Verdicts(NamedTuple):
    """The verdicts of a judge."""

    by_key: dict[str, Verdict]
    stopped: str | None
    """Why some are missing; None if all are there."""

    def of(self, question: Question) -> Verdict | None:
        """Returns the verdict on a question; None if it was not asked."""
        return self.by_key.get(question.key)


def key_of(*parts: object) -> str:
    """Makes the key of a question from everything on which its verdict depends."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def open_verdicts(file: Path, client: ChatClient, setting: str) -> Journal:
    """Opens a file of verdicts, and counts what they have used against the budget of the judge.

    Args:
        file: The file.
        client: The client of the judge.
        setting: The setting that names its place, for messages.

    Raises:
        UserError: If another process writes the file, or it contains something else.
    """
    journal = Journal(file, setting)
    for entry in journal.entries:
        client.budget.restore(Usage(*entry["tokens"]))
    return journal


def ask_all(client: ChatClient, questions: Sequence[Question], journal: Journal, what: str) -> Verdicts:
    """Asks the questions that a journal does not answer yet, `max_concurrency` at a time.

    Args:
        client: The client of the judge, with its budget.
        questions: The questions.
        journal: The verdicts that there are already, to which each new one is appended.
        what: The things that are judged, such as "answers".

    Raises:
        UserError: If the judge cannot be reached.
    """
    known = {entry["key"]: entry for entry in journal.entries}
    wanted = {question.key: question for question in questions}
    missing = [question for key, question in wanted.items() if key not in known]
    with CostProgress(what, len(wanted) - len(missing), len(wanted), client.budget) as progress:

        def keep(key: str, verdict: Verdict) -> None:
            known[key] = {"key": key, **verdict}
            journal.append(known[key])
            progress.advance()

        stopped = _ask(client, missing, keep)
    return Verdicts(known, stopped)


def _ask(client: ChatClient, questions: Iterable[Question], keep: Callable[[str, Verdict], None]) -> str | None:
    """Asks questions in threads; returns why some were not asked."""
    stopped: str | None = None
    pool = ThreadPoolExecutor(client.max_concurrency)
    waiting = {pool.submit(question.ask): question.key for question in questions}
    try:
        for future in as_completed(waiting):
            try:
                keep(waiting[future], future.result())
            except BudgetSpent as error:
                # The other questions that are under way may still be answered within the budget.
                stopped = str(error)
        return stopped
    except BaseException:
        client.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
