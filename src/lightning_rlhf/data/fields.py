"""Typed access to one row. Errors about a wrong value say what was found and what was expected."""

import json
import math
import re
from typing import Literal, TypedDict, get_args

from lightning_rlhf.data.files import Row

Role = Literal["system", "user", "assistant"]

_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


class WrongRow(ValueError):
    """Error about a row that cannot be used; it names the field, what was found and what was expected."""


class Fields:
    """The fields of a row. The object remembers which of them were read; null counts as missing."""

    def __init__(self, row: Row) -> None:
        """Wraps a row as it was read from its file."""
        self._row = {name: value for name, value in row.items() if value is not None}
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Checks whether the field exists and is not null."""
        return name in self._row

    def names(self) -> list[str]:
        """Returns the names of all fields that are not null."""
        return list(self._row)

    def rest(self) -> Row:
        """Returns the fields that were not read."""
        return {name: value for name, value in self._row.items() if name not in self._taken}

    def turns(self, name: str, role: Role) -> list[Message]:
        """Reads text, a transcript or a list of messages.

        Args:
            name: Name of the field.
            role: Role of the turn, if the field is plain text. Only text of the user may be a transcript.

        Returns:
            One or more messages; consecutive turns of one role are merged.

        Raises:
            WrongRow: If the field is missing or neither text nor messages.
        """
        value = self._take(name)
        if isinstance(value, list | tuple):
            if not value:
                raise WrongRow(f"field '{name}' is an empty list, expected messages")
            return merged([_message(item, f"{name}[{n}]") for n, item in enumerate(value)])
        text = _text(value, name)
        return _transcript(text) if role == "user" and _is_transcript(text) else [{"role": role, "content": text}]

    def text(self, name: str) -> str:
        """Reads text; raises `WrongRow` if the field is missing or has another type."""
        return _text(self._take(name), name)

    def number(self, name: str) -> float | None:
        """Reads a finite number, which may be a text, as in CSV; None if the field is missing or an empty cell."""
        if name not in self or self._row[name] == "":
            return None
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise WrongRow(f"field '{name}' is {_described(value)}, expected a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise WrongRow(f"field '{name}' is {_described(value)}, expected a finite number")
        return number

    def _take(self, name: str) -> object:
        if name not in self:
            raise WrongRow(f"field '{name}' is missing")
        self._taken.add(name)
        return self._row[name]


def merged(messages: list[Message]) -> list[Message]:
    """Joins consecutive turns of the same role with a blank line, since few chat templates allow such turns."""
    result: list[Message] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            both = f"{result[-1]['content'].rstrip()}\n\n{message['content'].lstrip()}".strip()
            result[-1] = {"role": message["role"], "content": both}
        else:
            result.append(message)
    return result


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _transcript(text: str) -> list[Message]:
    _, *parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", text.strip())
    turns = zip(parts[::2], parts[1::2], strict=True)
    return merged([{"role": "user" if who == "Human" else "assistant", "content": said.strip()} for who, said in turns])


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise WrongRow(f"field '{name}' is {_described(value)}, expected an object with role and content")
    for key in ("role", "content"):
        if value.get(key) is None:
            raise WrongRow(f"field '{name}.{key}' is missing")
    if value["role"] not in get_args(Role):
        raise WrongRow(f"field '{name}.role' is {_described(value['role'])}, expected {', '.join(get_args(Role))}")
    return {"role": value["role"], "content": _text(value["content"], f"{name}.content")}


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise WrongRow(f"field '{name}' is {_described(value)}, expected text")
    if _SURROGATE.search(value):
        raise WrongRow(f"field '{name}' contains half a character (a lone surrogate), which no tokenizer accepts")
    return value


def _described(value: object) -> str:
    kinds = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{kinds.get(type(value), type(value).__name__)} ({shown if len(shown) <= 60 else shown[:60] + '...'})"
