"""Recognises the layout of data, and converts every row into a record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lightning_rlhf.data.fields import Fields, Message, WrongRow
from lightning_rlhf.data.files import Row
from lightning_rlhf.data.layouts import KNOWN_LAYOUTS, UnknownLayout, answer_field, conversation, same, without_answer
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.errors import UserError

__all__ = ["Message", "Need", "Record", "Records", "OnError", "read_records", "records_of"]

Need = Literal["completion", "pair", "score", "prompt"]
OnError = Literal["raise", "skip"]
OtherColumns = Row
"""The columns of a row that no layout reads, by name."""
_NEEDS: dict[Need, str] = {
    "completion": "stage=sft needs an answer: prompt/completion, messages, instruction/output, user_input/completion, "
    "or the chosen one of a pair",
    "pair": "stage=reward and dpo need prompt/chosen/rejected, or chosen/rejected transcripts",
    "score": "training on scores needs an answer and its score: user_input/completion/score or prompt/completion/score",
    "prompt": "stage=ppo needs a prompt: prompt, messages, user_input, instruction, or chosen transcripts",
}

# Number of invalid rows that are listed before reading stops.
_MOST_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One row, independent of its layout.

    Attributes:
        messages: The whole conversation. The last turn is the assistant's if and only if the row contains an answer; in
            a pair, it is the chosen answer. Consecutive turns have different roles.
        rejected: The whole rejected conversation; only in pairs.
        score: How good the answer is, on the scale of the data.
        margin: How much better the chosen answer is than the rejected one; only in pairs.
        columns: All other columns of the row, for reward functions.
        source: The place of the row, such as `train.jsonl:12`.
    """

    messages: list[Message]
    rejected: list[Message] | None
    score: float | None
    margin: float | None
    columns: OtherColumns
    source: str

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
    """

    rows: list[Record]
    skipped: list[str]


def read_records(data: Data, need: Need, *, on_error: OnError = "raise", split: str = "train") -> Records:
    """Reads and checks a data set; see `records_of`.

    Args:
        data: Path, name or rows.
        need: What each row must contain.
        on_error: Whether invalid rows raise an error, or are skipped and listed.
        split: Split of a Hugging Face data set to read.

    Returns:
        The records in the order of the rows, and messages about the skipped rows.

    Raises:
        UserError: If the data cannot be read, if rows are invalid, or if no row is valid.
    """
    skipped: list[str] = []
    records = records_of(source_of(data, split), need=need, skipped=skipped, on_error=on_error)
    return Records(list(records), skipped)


def records_of(source: Source, *, need: Need, skipped: list[str], on_error: OnError) -> Iterator[Record]:
    """Yields the records of data, one at a time.

    Args:
        source: The data.
        need: What each row must contain: an answer, a pair of answers, an answer with a score, or only a prompt. Rows
            that contain more are accepted: SFT, for example, takes the chosen answer of a pair.
        skipped: List to which a message about each invalid row is appended.
        on_error: Whether invalid rows raise an error, or are skipped. Damaged files always raise an error.

    Raises:
        UserError: If the data cannot be read, if rows are invalid (the first few are listed), or if no row is valid.
    """
    unknown = some = False
    for row, place in source.rows():
        try:
            record = _record(row, need, place)
        except WrongRow as error:
            skipped.append(f"{place}: {error}")
            unknown = unknown or isinstance(error, UnknownLayout)
            if on_error == "raise" and len(skipped) == _MOST_ERRORS:
                break
        else:
            some = True
            yield record
    if skipped and (on_error == "raise" or not some):
        remedy = "data.on_error=skip skips such rows" if on_error == "raise" else "no other rows are left"
        lines = [*skipped[:_MOST_ERRORS], *([KNOWN_LAYOUTS] if unknown else []), remedy]
        raise UserError("\n".join([f"data '{source.name}' holds rows that cannot be used", *lines]))


def _record(row: Row, need: Need, source: str) -> Record:
    fields = Fields(row)
    answer = answer_field(fields)
    if need == "pair" and answer != "chosen":
        raise WrongRow(f"field 'chosen' is missing; {_NEEDS[need]}")
    messages = conversation(fields, answer)
    if need != "prompt":
        _check_answer(fields, answer, messages, need)
    elif not messages[-1]["content"].strip():
        messages = without_answer(messages)
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in without_answer(messages)):
        raise WrongRow(f"the prompt is empty; {_NEEDS[need]}")
    score = fields.number("score")
    if need == "score" and score is None:
        raise WrongRow(f"field 'score' is missing; {_NEEDS[need]}")
    rejected = margin = None
    if need == "pair":
        rejected = _rejected(fields, messages)
        margin = fields.number("margin")
    return Record(messages, rejected, score, margin, fields.rest(), source)


def _check_answer(fields: Fields, name: str, messages: list[Message], need: Need) -> None:
    if name not in fields:
        raise WrongRow(f"field '{name}' is missing; {_NEEDS[need]}")
    if messages[-1]["role"] != "assistant":
        raise WrongRow(f"field '{name}' holds no answer of the assistant; {_NEEDS[need]}")
    if not messages[-1]["content"].strip():
        raise WrongRow(f"field '{name}' holds an empty answer")


def _rejected(fields: Fields, chosen: list[Message]) -> list[Message]:
    if "rejected" not in fields:
        raise WrongRow(f"field 'rejected' is missing; {_NEEDS['pair']}")
    rejected = conversation(fields, "rejected")
    _check_answer(fields, "rejected", rejected, "pair")
    if same(chosen, rejected):
        raise WrongRow("fields 'chosen' and 'rejected' are equal, so neither is the better one")
    return rejected
