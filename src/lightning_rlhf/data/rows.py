"""Rows in Arrow tables, mostly in files that are mapped into memory. Arrays are made when a row is read."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, cast, overload

import numpy as np
import pyarrow as pa

Row = TypeVar("Row", covariant=True)


class Rows(Sequence[Row], Generic[Row]):
    """Some rows of a table, in order. Processes that map the same file share its memory."""

    def __init__(
        self,
        table: pa.Table,
        make: Callable[..., Row],
        places: np.ndarray | None = None,
        beyond: Mapping[int, object] | None = None,
    ) -> None:
        """Stores the table.

        Args:
            table: A table of any number of record batches.
            make: Function that makes a row from its columns, which are its parameters; lists of numbers are arrays.
            places: Indices of the rows in the table; None for all rows.
            beyond: Values that replace the column `columns` of some rows, by their index in the table.
        """
        self.table, self.make, self.beyond = table, make, beyond or {}
        self.places = np.arange(len(table)) if places is None else places
        names = make.__code__.co_varnames[: make.__code__.co_argcount]
        self._columns = {name: _Column(table[name]) for name in names}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows[Row]": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows[Row]":
        """Returns a row, or the rows of a slice."""
        if isinstance(index, slice):
            return self.at(self.places[index])
        place = int(self.places[index])
        values = {name: column[place] for name, column in self._columns.items()}
        if "columns" in values and place in self.beyond:
            values["columns"] = self.beyond[place]
        return self.make(**values)

    def __iter__(self) -> Iterator[Row]:
        """Iterates over the rows in order."""
        return (self[index] for index in range(len(self)))

    def at(self, places: np.ndarray) -> "Rows[Row]":
        """Returns other rows of the same table."""
        return Rows(self.table, self.make, places, self.beyond)

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column of numbers, (rows,)."""
        # Rows of the table that could not be rendered have nulls, and are at none of the places.
        return self.table[name].fill_null(0).to_numpy()[self.places]


class _Column:
    """A column that avoids the overhead of Arrow at each access."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._starts = list(accumulate((len(chunk) for chunk in column.chunks), initial=0))
        self._lists = pa.types.is_list(column.type)
        # Nothing is copied: these arrays are views of the mapped file. Offsets refer to the values, even in a slice.
        self._chunks = [
            (chunk.values.to_numpy(), chunk.offsets.to_numpy()) if self._lists else chunk for chunk in column.chunks
        ]

    def __getitem__(self, place: int) -> object:
        number = bisect_right(self._starts, place) - 1
        place -= self._starts[number]
        if not self._lists:
            return self._chunks[number][place].as_py()
        values, offsets = cast(tuple[np.ndarray, np.ndarray], self._chunks[number])
        return values[offsets[place] : offsets[place + 1]]
