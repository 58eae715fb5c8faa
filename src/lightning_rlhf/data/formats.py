"""Recognises the layouts that data come in, and makes one kind of record of them all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lightning_rlhf.data.fields import Fields, Message, WrongRow
from lightning_rlhf.data.layouts import KNOWN_LAYOUTS, UnknownLayout, answer_field, conversation, same, without_answer
from lightning_rlhf.data.sources import Data, Source, source_of
from lightning_rlhf.errors import UserError

__all__ = ["Message", "Need", "Record", "Records", "OnError", "read_records", "records_of"]

Need = Literal["completion", "pair", "score", "prompt"]
OnError = Literal["raise", "skip"]

_NEEDS: dict[Need, str] = {
    "completion": "stage=sft needs an answer: prompt/completion, messages, instruction/output, user_input/completion, "
    "or the chosen one of a pair",
    "pair": "stage=reward and dpo need prompt/chosen/rejected, or chosen/rejected transcripts",
    "score": "training on scores needs an answer and its score: user_input/completion/score or prompt/completion/score",
    "prompt": "stage=ppo needs a prompt: prompt, messages, user_input, instruction, or chosen transcripts",
}

# So many wrong rows are listed before reading stops.
_MOST_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Record:
    """One row, whatever layout it came in.

    Attributes:
        messages: The whole conversation; the last turn is the assistant's iff the row carries an answer (of a pair,
            the chosen one). Never two turns of one role in a row.
        rejected: The whole rejected conversation; pairs only.
        score: How good the answer is, on the scale of the data.
        margin: How much better the chosen answer is than the rejected one; pairs only.
        columns: All columns of the row that are none of the above, for reward functions.
        source: The place of the row, such as `train.jsonl:12`.
    """

    messages: list[Message]
    rejected: list[Message] | None
    score: float | None
    margin: float | None
    columns: dict[str, Any]
    source: str

    @property
    def prompt(self) -> list[Message]:
        """The messages without the answer."""
        return without_answer(self.messages)


@dataclass(frozen=True, slots=True)
class Records:
    """The rows that can be used, and what was wrong with those that were skipped.

    Attributes:
        rows: Never empty.
        skipped: One message for each row skipped.
    """

    rows: list[Record]
    skipped: list[str]


def read_records(data: Data, need: Need, *, on_error: OnError = "raise", split: str = "train") -> Records:
    """Reads and checks a data set, see `records_of`.

    Args:
        data: Path, name or rows.
        need: What each row has to carry.
        on_error: Raise on wrong rows, or skip and list them.
        split: Which split of a Hugging Face data set to read.

    Returns:
        The records in the order of the rows, and the messages of the rows skipped.

    Raises:
        UserError: If the data cannot be read, if rows are wrong, or if no row is right.
    """
    skipped: list[str] = []
    records = records_of(source_of(data, split), need=need, skipped=skipped, on_error=on_error)
    return Records(list(records), skipped)


def records_of(source: Source, *, need: Need, skipped: list[str], on_error: OnError) -> Iterator[Record]:
    """Yields the records of data, one at a time.

    Args:
        source: The data.
        need: What each row has to carry: an answer, a pair of answers, an answer with a score, or no more than a
            prompt. A layout that carries more will do: of a pair, SFT takes the chosen answer.
        skipped: Gets one message for each wrong row.
        on_error: Raise on wrong rows, or skip them. Files that are damaged raise in any case.

    Raises:
        UserError: If the data cannot be read, if rows are wrong (the first few are listed), or if no row is right.
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


def _record(row: dict[str, Any], need: Need, source: str) -> Record:
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
