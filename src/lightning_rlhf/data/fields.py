"""Typed access to one row. Errors about a wrong value say what was found and what was expected."""

import math
from collections import Counter
from collections.abc import Mapping

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.files import Row
from lightning_rlhf.data.messages import Message, Role, described, message_of, text_of, tidied
from lightning_rlhf.data.stored_text import parsed, stored_messages
from lightning_rlhf.data.transcripts import is_transcript, transcript

__all__ = ["Fields", "Message", "Role", "WrongRow"]


class Fields:
    """The fields of a row. The object remembers which of them were read; null counts as missing.

    Attributes:
        notes: What was done to turns of the row, such as joining them.
    """

    def __init__(self, row: Row, keys: Mapping[str, str | None] | None = None) -> None:
        """Wraps a row as it was read from its file.

        Args:
            row: The row.
            keys: Names of the keys of messages in these data by their usual names; None leaves out a key.
        """
        self._row = {name: value for name, value in row.items() if value is not None}
        self._keys = keys or {}
        self._taken: set[str] = set()
        self._context: set[str] = set()
        self.notes: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        """Checks whether the field exists and is not null."""
        return name in self._row

    def names(self) -> list[str]:
        """Returns the names of all fields that are not null."""
        return list(self._row)

    def texts(self) -> list[str]:
        """Returns the names of the fields that contain text."""
        return [name for name, value in self._row.items() if isinstance(value, str)]

    def rest(self) -> Row:
        """Returns the fields for reward functions: those that were not read, and those that add context."""
        return {name: value for name, value in self._row.items() if name not in self._taken - self._context}

    def unread(self) -> list[str]:
        """Returns the names of the fields that were not read."""
        return [name for name in self._row if name not in self._taken]

    def turns(self, name: str, role: Role) -> list[Message]:
        """Reads text, a transcript or a list of messages; the list may be stored as text.

        Args:
            name: Name of the field.
            role: Role of the turn, if the field is plain text. Only text of the user may be a transcript.

        Returns:
            The messages; `tidied` says what becomes of empty turns and of consecutive turns of one role.

        Raises:
            WrongRow: If the field is missing or neither text nor messages.
        """
        value = self._take(name)
        if isinstance(value, str):
            value = stored_messages(text_of(value, name), name, self._keys)
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list | tuple):
            if not value:
                raise WrongRow(f"field '{name}' is an empty list, expected messages")
            return tidied([message_of(item, f"{name}[{n}]", self._keys) for n, item in enumerate(value)], self.notes)
        text = text_of(value, name)
        if role == "user" and is_transcript(text):
            return tidied(transcript(text), self.notes)
        return [{"role": role, "content": text}]

    def text(self, name: str, *, context: bool = False) -> str:
        """Reads text; raises `WrongRow` if the field is missing or has another type.

        Args:
            name: Name of the field.
            context: Whether the field adds context to the conversation, which reward functions may want to read too.
        """
        value = self._take(name, context=context)
        return text_of(stored_messages(text_of(value, name), name, self._keys), name)

    def items(self, name: str) -> list[object]:
        """Reads a list that adds context; it may be stored as text. An empty text counts as an empty list."""
        value = self._take(name, context=True)
        if isinstance(value, str) and value.strip():
            value = parsed(value)
        if isinstance(value, str) and not value.strip():
            return []
        if not isinstance(value, list | tuple):
            raise WrongRow(f"field '{name}' is {described(value)}, expected a list")
        return list(value)

    def number(self, name: str) -> float | None:
        """Reads a finite number, which may be a text, as in CSV; None if the field is missing or an empty cell."""
        if name not in self or self._row[name] == "":
            return None
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise WrongRow(f"field '{name}' is {described(value)}, expected a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise WrongRow(f"field '{name}' is {described(value)}, expected a finite number")
        return number

    def _take(self, name: str, *, context: bool = False) -> object:
        if name not in self:
            raise WrongRow(f"field '{name}' is missing")
        self._taken.add(name)
        if context:
            self._context.add(name)
        return self._row[name]
