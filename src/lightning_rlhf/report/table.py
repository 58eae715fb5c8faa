"""A table of the run card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text. The first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
