"""Recognises the layout of data, and converts every row into a record."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from lightning_rlhf.data.faults import OnError, Report, WrongRow
from lightning_rlhf.data.fields import Fields, Message
from lightning_rlhf.data.files import Row
from lightning_rlhf.data.layouts import answer_field, conversation, same, without_answer
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.data.stored_text import parsed
from lightning_rlhf.data.suggestions import Need, suggestion
from lightning_rlhf.data.verdicts import columns_of_labels, decides_nothing
from lightning_rlhf.errors import UserError

__all__ = ["Message", "Need", "Record", "Records", "OnError", "read_records", "records_of"]

OtherColumns = Row
"""The columns of a row that no layout reads, by name, and those that add context to a conversation."""
_NEEDS: dict[Need, str] = {
    "completion": "stage=sft needs an answer: prompt/completion, messages, instruction/output, user_input/completion, "
    "or the chosen one of a pair",
    "pair": "stage=reward and dpo need prompt/chosen/rejected, or chosen/rejected transcripts",
    "score": "training on scores needs an answer and its score: user_input/completion/score or prompt/completion/score",
    "prompt": "stage=ppo needs a prompt: prompt, messages, user_input, instruction, or chosen transcripts",
}


class MissingField(WrongRow):
    """Error about a row that lacks a field of its layout, or matches no layout."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row, independent of its layout.

    Attributes:
        messages: The whole conversation. Its last turn is the answer, in a pair the chosen one; where only a prompt is
            needed, there is no answer. `tidied` says which turns follow each other.
        rejected: The whole rejected conversation; only in pairs.
        score: How good the answer is, on the scale of the data.
        margin: How much better the chosen answer is than the rejected one; only in pairs.
        columns: The other columns of the row, for reward functions.
        source: The place of the row, such as `train.jsonl:12`.
        tools: Descriptions of the tools that the assistant may call, for the chat template.
    """

    messages: list[Message]
    rejected: list[Message] | None
    score: float | None
    margin: float | None
    columns: OtherColumns
    source: str
    tools: list[Any] = field(default_factory=list)

    @property
    def prompt(self) -> list[Message]:
        """The conversation without the answer."""
        return without_answer(self.messages)


@dataclass(frozen=True, slots=True)
class Records:
    """The rows that can be used, and messages about those that were skipped.

    Attributes:
        rows: The records, of which there is at least one.
        skipped: One message for each skipped row.
        notes: What was done to the rows, with the number of cases.
    """

    rows: list[Record]
    skipped: list[str]
    notes: dict[str, int]


def read_records(data: Data, need: Need, *, on_error: OnError = "raise", reading: Reading | None = None) -> Records:
    """Reads and checks a data set; see `records_of`.

    Args:
        data: Path, name or rows.
        need: What each row must contain.
        on_error: Whether invalid rows raise an error, or are skipped and listed.
        reading: Which part of the data is read, and what its fields are called.

    Returns:
        The records in the order of the rows, and messages about the skipped rows.

    Raises:
        UserError: If the data cannot be read, if rows are invalid, or if no row is valid.
    """
    report = Report()
    source = source_of(data, reading)
    records = list(records_of(source, need=need, report=report, on_error=on_error))
    return Records(records, report.skipped, dict(report.notes))


def records_of(source: Source, *, need: Need, report: Report, on_error: OnError) -> Iterator[Record]:
    """Yields the records of data, one at a time.

    Args:
        source: The data.
        need: What each row must contain: an answer, a pair of answers, an answer with a score, or only a prompt. Rows
            that contain more are accepted: SFT, for example, takes the chosen answer of a pair. Rows of a file of
            labels that prefer no answer are left out unless only a prompt is needed.
        report: Receives a message about each invalid row, and counts what was done to the others.
        on_error: Whether invalid rows raise an error, or are skipped. Files that cannot be read further always raise
            an error.

    Raises:
        UserError: If the data cannot be read, if rows are invalid (the first of each kind is shown), or if no row is
            valid, or if people prefer no answer of any row.
    """
    unseen = set(source.reading.named)
    left_out: Counter[str] = Counter()
    for row, place in source.rows():
        if need != "prompt" and (why := decides_nothing(row)):
            left_out[why] += 1
            continue
        report.read += 1
        if isinstance(row, WrongRow):
            report.skip(place, row)
            continue
        fields = Fields(row, source.keys)
        unseen.difference_update(row)
        try:
            record = _record(fields, need, place)
        except WrongRow as error:
            report.skip(place, error)
            if isinstance(error, MissingField) and not report.hint:
                report.hint = suggestion(fields, need, source.reading)
        except RecursionError:
            report.skip(place, "the row is nested too deeply")
        else:
            report.notes.update(fields.notes)
            if need != "completion":
                report.notes.update(_compared(record))
            own = columns_of_labels(row)
            unread = [name for name in fields.unread() if name not in own]
            report.notes.update(f"column '{name}' is not part of the conversation" for name in unread)
            yield record
    for name in unseen:
        report.notes[f"rows without the column that data.columns names as {name}"] = report.read
    report.notes.update(left_out)
    if left_out and not report.read:
        causes = "; ".join(f"{why}: {count}" for why, count in left_out.items())
        raise UserError(f"data '{source.name}' holds no pair of which people prefer one answer: {causes}")
    report.check(source.name, on_error)


def _record(fields: Fields, need: Need, source: str) -> Record:
    answer = answer_field(fields)
    if answer is None:
        raise MissingField(f"columns {', '.join(fields.names()) or 'none'} are no known layout")
    if need == "pair" and answer != "chosen":
        raise MissingField(f"field 'chosen' is missing; {_NEEDS[need]}")
    messages = conversation(fields, answer)
    if need != "prompt":
        _check_answer(fields, answer, messages, need)
    else:
        messages = without_answer(messages)
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in without_answer(messages)):
        raise WrongRow(f"the prompt is empty; {_NEEDS[need]}")
    score = fields.number("score")
    if need == "score" and score is None:
        raise MissingField(f"field 'score' is missing; {_NEEDS[need]}")
    rejected = margin = None
    if need == "pair":
        rejected = _rejected(fields, messages)
        margin = fields.number("margin")
    tools = [parsed(one) if isinstance(one, str) else one for one in fields.items("tools")] if "tools" in fields else []
    return Record(messages, rejected, score, margin, fields.rest(), source, tools)


def _compared(record: Record) -> dict[str, int]:
    """Takes out which turns are learnt, since only demonstrations are imitated; returns how many turns it said."""
    flagged = [turn for turn in chain(record.messages, record.rejected or []) if "train" in turn]
    for turn in flagged:
        del turn["train"]
    return {"turns of weight 0 or train: false, which only sft uses": len(flagged)} if flagged else {}


def _check_answer(fields: Fields, name: str, messages: list[Message], need: Need) -> None:
    if name not in fields:
        raise MissingField(f"field '{name}' is missing; {_NEEDS[need]}")
    if messages[-1]["role"] != "assistant":
        raise WrongRow(f"field '{name}' holds no answer of the assistant; {_NEEDS[need]}")
    if messages[-1].keys() <= {"role", "content", "train"} and not messages[-1]["content"].strip():
        raise WrongRow(f"field '{name}' holds an empty answer")


def _rejected(fields: Fields, chosen: list[Message]) -> list[Message]:
    if "rejected" not in fields:
        raise MissingField(f"field 'rejected' is missing; {_NEEDS['pair']}")
    rejected = conversation(fields, "rejected")
    _check_answer(fields, "rejected", rejected, "pair")
    if same(chosen, rejected):
        raise WrongRow("fields 'chosen' and 'rejected' are equal, so neither is the better one")
    return rejected
