"""Rows in Arrow tables, mostly in files that are mapped into memory: arrays that are made when they are read."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import pyarrow as pa

Row = TypeVar("Row", covariant=True)


class Rows(Sequence[Row], Generic[Row]):
    """Some rows of a table, in order; processes that map the same file share its memory."""

    def __init__(
        self,
        table: pa.Table,
        make: Callable[..., Row],
        places: np.ndarray | None = None,
        beyond: Mapping[int, Any] | None = None,
    ) -> None:
        """Takes a table.

        Args:
            table: Any number of record batches.
            make: Makes a row of its columns, which it takes by their names; lists of numbers are arrays.
            places: Which rows of the table these are; all of them if None.
            beyond: What stands for the value of `columns` in some rows, by their place in the table.
        """
        self.table, self.make, self.beyond = table, make, beyond or {}
        self.places = np.arange(len(table)) if places is None else places
        names = make.__code__.co_varnames[: make.__code__.co_argcount]
        self._columns = {name: _Column(table[name]) for name in names}

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows[Row]": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows[Row]":
        """A row, or the rows of a slice."""
        if isinstance(index, slice):
            return self.at(self.places[index])
        place = int(self.places[index])
        values = {name: column[place] for name, column in self._columns.items()}
        if "columns" in values and place in self.beyond:
            values["columns"] = self.beyond[place]
        return self.make(**values)

    def __iter__(self) -> Iterator[Row]:
        """The rows in order."""
        return (self[index] for index in range(len(self)))

    def at(self, places: np.ndarray) -> "Rows[Row]":
        """Other rows of the same table."""
        return Rows(self.table, self.make, places, self.beyond)

    def numbers(self, name: str) -> np.ndarray:
        """(rows,) a column of numbers."""
        return self.table[name].to_numpy()[self.places]


class _Column:
    """One column, without the work that Arrow does for each access."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._starts = list(accumulate((len(chunk) for chunk in column.chunks), initial=0))
        self._lists = pa.types.is_list(column.type)
        # Nothing is copied: these arrays lie in the mapped file. Offsets are those of the values, also of a slice.
        self._chunks = [
            (chunk.values.to_numpy(), chunk.offsets.to_numpy()) if self._lists else chunk for chunk in column.chunks
        ]

    def __getitem__(self, place: int) -> Any:
        number = bisect_right(self._starts, place) - 1
        place -= self._starts[number]
        if not self._lists:
            return self._chunks[number][place].as_py()
        values, offsets = cast(tuple[np.ndarray, np.ndarray], self._chunks[number])
        return values[offsets[place] : offsets[place + 1]]
