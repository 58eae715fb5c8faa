"""What the importers of all layouts share: rows for files, reasons to drop a row, and typed access to fields."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from lightning_rlhf.data.faults import WrongRow, kind_of
from lightning_rlhf.data.fields import Fields
from lightning_rlhf.data.messages import Message, text_of

File = Literal["demonstrations", "preferences", "scores", "prompts", "best_of"]
Written = tuple[File, dict[str, Any]]
"""A row, and the file to which it belongs."""


class Dropped(NamedTuple):
    """A row, or a part of it, that is not written."""

    reason: str
    """In words that complete "dropped because …"."""


Found = Iterator[Written | Dropped]


class Layout(NamedTuple):
    """A layout of public data.

    Attributes:
        name: What the user calls it.
        hub: The data set on the hub after which it is named.
        convert: Converts the rows of a data set, in their order.
        split: The split of that data set to read; None if it has one for training.
    """

    name: str
    hub: str
    convert: Callable[[Iterable[Mapping[str, Any]]], Found]
    split: str | None = None


def each(convert: Callable[[Mapping[str, Any]], Found]) -> Callable[[Iterable[Mapping[str, Any]]], Found]:
    """Makes a function of all rows of a function of one row; a row that it cannot read is dropped."""

    def convert_all(rows: Iterable[Mapping[str, Any]]) -> Found:
        for row in rows:
            try:
                yield from convert(row)
            except WrongRow as error:
                yield Dropped(kind_of(error))

    return convert_all


def text(row: Mapping[str, Any], name: str) -> str:
    """Returns the text of a field without space around it; empty if the field is missing or no text.

    Raises:
        WrongRow: If it contains half a character, which no tokenizer accepts.
    """
    value = row.get(name)
    return text_of(value, name).strip() if isinstance(value, str) else ""


def turns(row: Mapping[str, Any], name: str) -> list[Message]:
    """Returns the turns of a field, which is a list of messages or the text of the user; none if it is missing.

    Raises:
        WrongRow: If it is something else.
    """
    fields = Fields(dict(row))
    return fields.turns(name, "user") if name in fields else []


def number(value: object) -> float | None:
    """Returns a finite number, which may be stored as text; None for anything else, such as `N/A`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None


def user(content: str) -> list[Message]:
    """Returns a conversation that consists of one question."""
    return [{"role": "user", "content": content}]


def pair(prompt: list[Message], chosen: str, rejected: str, **others: Any) -> Found:
    """Yields a pair of answers, or why it is none.

    Args:
        prompt: The conversation before the answers.
        chosen: The better answer.
        rejected: The worse answer.
        others: Further columns; None leaves one out.
    """
    if not prompt or not all(turn["content"].strip() for turn in prompt):
        yield Dropped("the prompt is empty")
    elif not chosen.strip() or not rejected.strip():
        yield Dropped("an answer is empty")
    elif chosen.strip() == rejected.strip():
        yield Dropped("both answers are equal")
    else:
        known = {name: value for name, value in others.items() if value is not None}
        yield "preferences", {"prompt": prompt, "chosen": chosen.strip(), "rejected": rejected.strip(), **known}
