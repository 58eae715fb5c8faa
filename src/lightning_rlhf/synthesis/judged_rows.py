"""The rows that a judge is asked about: answers, and pairs of answers to one prompt."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_rlhf.data.faults import OnError
from lightning_rlhf.data.formats import Record, Records, read_records
from lightning_rlhf.data.sources import source_of
from lightning_rlhf.data.splits import COLUMNS, Reading
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from lightning_rlhf.data.fields import Message


class Answer(NamedTuple):
    """An answer to a prompt.

    Attributes:
        prompt: The conversation before it.
        text: The answer.
        score: Its score in the data; None if it has none.
        columns: The other columns of its row.
    """

    prompt: "list[Message]"
    text: str
    score: float | None
    columns: dict[str, Any]


class Pair(NamedTuple):
    """Two answers to a prompt; in labelled data, people prefer the first."""

    prompt: "list[Message]"
    first: str
    second: str
    columns: dict[str, Any]


class Read(NamedTuple):
    """What was read.

    Attributes:
        rows: The answers or pairs.
        skipped: Messages about the rows that cannot be used.
    """

    rows: Sequence[Any]
    skipped: list[str]


def read_answers(data: str, reading: Reading, on_error: OnError, *, scored: bool = False) -> Read:
    """Reads answers in any known layout.

    Args:
        data: Path or name.
        reading: Which part is read, and what its fields are called.
        on_error: Whether rows that cannot be used raise an error, or are skipped.
        scored: Whether each answer must have a score.
    """
    found = read_records(data, "score" if scored else "completion", on_error=on_error, reading=reading)
    rows = [Answer(row.prompt, row.messages[-1]["content"], row.score, _others(row)) for row in found.rows]
    return Read(rows, found.skipped)


def read_labelled_pairs(data: str, reading: Reading, on_error: OnError) -> Read:
    """Reads pairs of a chosen and a rejected answer, in any known layout."""
    return _pairs_in(read_records(data, "pair", on_error=on_error, reading=reading))


def read_pairs(data: str, reading: Reading, on_error: OnError) -> Read:
    """Reads two answers to each prompt, whichever is better.

    They are the answers `chosen` and `rejected` of one row, or else the answers of rows with equal prompts: the first
    with the second, the second with the third.

    Raises:
        UserError: If no prompt has two different answers.
    """
    first = next(islice(source_of(data, reading).rows(), 1), ({}, ""))[0]
    if isinstance(first, dict) and first.get("rejected") is not None:
        return read_labelled_pairs(data, reading, on_error)
    answers = read_answers(data, reading, on_error)
    by_prompt: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers.rows:
        same = by_prompt[json.dumps(answer.prompt, sort_keys=True)]
        if answer.text not in {other.text for other in same}:
            same.append(answer)
    pairs = [
        Pair(one.prompt, one.text, other.text, {})
        for same in by_prompt.values()
        for one, other in zip(same, same[1:], strict=False)
    ]
    if not pairs:
        raise UserError(
            f"path={data}: no prompt has two different answers to compare; a row needs chosen and rejected, or two "
            "rows need the same prompt"
        )
    return Read(pairs, answers.skipped)


def _pairs_in(found: Records) -> Read:
    rows = []
    for row in found.rows:
        assert row.rejected is not None
        rows.append(Pair(row.prompt, row.messages[-1]["content"], row.rejected[-1]["content"], _others(row)))
    return Read(rows, found.skipped)


def _others(row: Record) -> dict[str, Any]:
    """The columns that are written again. Those that are part of the conversation are in its messages by now."""
    return {name: value for name, value in row.columns.items() if name not in COLUMNS}
