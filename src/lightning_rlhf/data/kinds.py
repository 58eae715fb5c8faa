"""The kinds of rows that the stages read: what a record becomes in a table, and what a row is made of."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from lightning_rlhf.data.formats import Need, OnError, Record, records_of
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Source
from lightning_rlhf.errors import UserError

Row = TypeVar("Row")
Columns = dict[str, Any]
"""The columns of one row, by name. Every kind has `length`: tokens of the longest text that nets read of a row."""

TOKENS = "tokens"
"""The type of a column of ids, which are as narrow as the vocabulary allows."""


@dataclass(frozen=True)
class Kind(Generic[Row]):
    """One kind of rows.

    Attributes:
        name: Of the kind and its settings: tables of two that differ have different names.
        records: Reads the records of data, appends what is wrong with others to a list, and is told whether to raise.
        schema: The type of each column.
        render: Makes the columns of many records, or says why one cannot be rendered.
        make: Makes a row of columns, which it takes by their names; lists are arrays.
    """

    name: str
    records: Callable[[Source, list[str], OnError], Iterator[Record]]
    schema: dict[str, Any]
    render: Callable[[Renderer, Sequence[Record]], Sequence[Columns | UserError]]
    make: Callable[..., Row]

    @property
    def keeps_columns(self) -> bool:
        """Whether rows hold the columns of records that no layout reads."""
        return "columns" in self.schema

    def table(self, rows: Iterable[Columns], vocabulary: int) -> pa.Table:
        """The table of some rows.

        Args:
            rows: Their columns.
            vocabulary: Ids are below it.
        """
        tokens = pa.list_(pa.from_numpy_dtype(np.min_scalar_type(max(vocabulary - 1, 0))))
        types = {name: tokens if isinstance(kind, str) else kind for name, kind in self.schema.items()}
        return pa.Table.from_pylist(list(rows), schema=pa.schema(list(types.items())))


def records_with(need: Need) -> Callable[[Source, list[str], OnError], Iterator[Record]]:
    """Reads records in any known layout, each of which has to carry something."""
    return lambda source, skipped, on_error: records_of(source, need=need, skipped=skipped, on_error=on_error)


class Conversation(NamedTuple):
    """A row that is a conversation: `Rendered` as arrays."""

    ids: np.ndarray
    """(tokens,) unsigned integers."""
    loss_mask: np.ndarray
    """(tokens,) bool: True on what is learnt."""


def conversation_columns(rendered: Rendered) -> Columns:
    """The columns of a conversation; what is learnt is kept as the places where stretches of it begin and end."""
    return {
        "length": len(rendered.ids),
        "num_labels": sum(rendered.loss_mask),
        "ids": rendered.ids,
        "learnt": stretches(rendered.loss_mask),
    }


def conversation_row(ids: np.ndarray, learnt: np.ndarray) -> Conversation:
    """The row of these columns."""
    mask = np.zeros(len(ids), dtype=bool)
    for begin, end in learnt.reshape(-1, 2):
        mask[begin:end] = True
    return Conversation(ids, mask)


def stretches(mask: Sequence[bool]) -> list[int]:
    """Where stretches of True begin and end, one after the other."""
    return np.flatnonzero(np.diff(np.asarray([False, *mask, False], dtype=np.int8))).tolist()


def conversations(
    name: str,
    records: Callable[[Source, list[str], OnError], Iterator[Record]],
    render: Callable[[Renderer, Sequence[Record]], Sequence[Rendered | UserError]],
) -> Kind[Conversation]:
    """A kind whose rows are conversations."""
    return Kind(
        name,
        records,
        {"length": pa.int32(), "num_labels": pa.int32(), "ids": TOKENS, "learnt": pa.list_(pa.int32())},
        lambda renderer, some: [
            one if isinstance(one, UserError) else conversation_columns(one) for one in render(renderer, some)
        ],
        conversation_row,
    )


def demonstrations(loss_on: Literal["all", "last"] = "all") -> Kind[Conversation]:
    """Conversations whose answers are to be imitated: all of them, or the last one."""
    return conversations(
        f"demonstrations, {loss_on}",
        records_with("completion"),
        lambda renderer, records: renderer.conversations([record.messages for record in records], loss_on),
    )


def conversation_rows(rendered: Sequence[Rendered]) -> Rows[Conversation]:
    """Conversations that are in memory, as rows."""
    largest = max(max(one.ids, default=0) for one in rendered)
    table = demonstrations().table(map(conversation_columns, rendered), largest + 1)
    return Rows(table, conversation_row)
