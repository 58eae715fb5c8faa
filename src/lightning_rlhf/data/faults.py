"""Rows that cannot be used, and what was done to the others: collected while data are read, and told in a few lines."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from lightning_rlhf.errors import UserError

OnError = Literal["raise", "skip"]

# Number of kinds of faults that an error lists.
_MOST_KINDS = 5
# What differs between rows that are wrong in the same way: values that were found, and numbers.
_VARIES = re.compile(r" ?\(.*\)|\[\d+\]|\d+", re.DOTALL)


class WrongRow(ValueError):
    """Error about a row that cannot be used; it names the field, what was found and what was expected."""


@dataclass
class Report:
    """What happened to rows while they were read.

    Attributes:
        read: Number of rows that were read.
        skipped: A message about each row that cannot be used, which begins with the place of the row.
        notes: What was done to rows that are used, with the number of cases.
        hint: How rows that cannot be used would be understood; empty if nothing is known.
    """

    read: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    hint: str = ""

    def skip(self, place: str, problem: object) -> None:
        """Adds a row that cannot be used."""
        self.skipped.append(f"{place}: {problem}")

    def check(self, name: str, on_error: OnError) -> None:
        """Checks whether the rows that cannot be used may be skipped. Call it when all rows have been read.

        Args:
            name: Name of the data.
            on_error: Whether rows that cannot be used raise an error, or are skipped.

        Raises:
            UserError: If they may not, or there are no other rows; it has a line for each kind of fault.
        """
        if not self.skipped or (on_error == "skip" and len(self.skipped) < self.read):
            return
        remedy = "data.on_error=skip skips such rows" if on_error == "raise" else "no other rows are left"
        hint = [self.hint] if self.hint else []
        raise UserError(
            "\n".join([f"data '{name}' holds rows that cannot be used", *kinds_of(self.skipped), *hint, remedy])
        )


def kinds_of(messages: Iterable[str]) -> list[str]:
    """Sums up messages about rows: the first of each kind, with the number of rows that are wrong in the same way.

    Args:
        messages: Messages that begin with the place of a row.
    """
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(kind_of(message.partition(": ")[2]), []).append(message)
    lines = [first + _more(len(others)) for first, *others in kinds.values()]
    rest = sum(map(len, list(kinds.values())[_MOST_KINDS:]))
    return lines[:_MOST_KINDS] + ([f"and {rest} rows with other faults"] if rest else [])


def kind_of(problem: object) -> str:
    """Leaves out of a problem with a row what differs between rows that are wrong in the same way."""
    return _VARIES.sub("", str(problem))


def _more(count: int) -> str:
    return f" (and {count} more such row{'s' if count > 1 else ''})" if count else ""
