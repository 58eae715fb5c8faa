"""The kinds of rows that the stages read: how a record becomes columns of a table, and how columns become a row."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from lightning_rlhf.data.faults import OnError, Report
from lightning_rlhf.data.formats import Need, Record, records_of
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Source
from lightning_rlhf.errors import UserError

Row = TypeVar("Row", covariant=True)
Columns = dict[str, Any]
"""The columns of one row, by name. Every kind has `length`, the length in tokens of the longest text of a row."""

TOKENS = "tokens"
"""The type of a column of ids, whose integers are as narrow as the vocabulary allows."""


@dataclass(frozen=True)
class Kind(Generic[Row]):
    """A kind of rows.

    Attributes:
        name: Name of the kind and its settings; kinds with different tables have different names.
        records: Function that reads the records of data. It reports each invalid row, and raises an error at the end or
            skips the row.
        schema: The type of each column.
        render: Function that makes the columns of many records; its result has an error for a record that cannot be
            rendered.
        make: Function that makes a row from its columns, which are its parameters; lists are arrays.
        every_answer: Whether every answer of a conversation is to be learnt.
    """

    name: str
    records: Callable[[Source, Report, OnError], Iterator[Record]]
    schema: Mapping[str, pa.DataType | str]
    render: Callable[[Renderer, Sequence[Record]], Sequence[Columns | UserError]]
    make: Callable[..., Row]
    every_answer: bool = False

    @property
    def keeps_columns(self) -> bool:
        """Whether rows contain the columns of records that no layout reads."""
        return "columns" in self.schema

    def table(self, rows: Iterable[Columns], vocabulary: int) -> pa.Table:
        """Makes a table of some rows.

        Args:
            rows: The columns of each row.
            vocabulary: Exclusive upper bound of the ids.
        """
        tokens = pa.list_(pa.from_numpy_dtype(np.min_scalar_type(max(vocabulary - 1, 0))))
        types = {name: tokens if isinstance(kind, str) else kind for name, kind in self.schema.items()}
        return pa.Table.from_pylist(list(rows), schema=pa.schema(list(types.items())))


def records_with(need: Need) -> Callable[[Source, Report, OnError], Iterator[Record]]:
    """Returns a function that reads records in any known layout; every record must contain `need`."""
    return lambda source, report, on_error: records_of(source, need=need, report=report, on_error=on_error)


class Conversation(NamedTuple):
    """A row that is a conversation: the arrays of a `Rendered`."""

    ids: np.ndarray
    """(tokens,) unsigned integers."""
    loss_mask: np.ndarray
    """(tokens,) bool: True on the tokens to learn."""


def conversation_columns(rendered: Rendered) -> Columns:
    """Makes the columns of a conversation. The mask is stored as the positions where runs of True begin and end."""
    return {
        "length": len(rendered.ids),
        "num_labels": sum(rendered.loss_mask),
        "ids": rendered.ids,
        "learnt": stretches(rendered.loss_mask),
    }


def conversation_row(ids: np.ndarray, learnt: np.ndarray) -> Conversation:
    """Makes the row from the columns of `conversation_columns`."""
    mask = np.zeros(len(ids), dtype=bool)
    for begin, end in learnt.reshape(-1, 2):
        mask[begin:end] = True
    return Conversation(ids, mask)


def stretches(mask: Sequence[bool]) -> list[int]:
    """Returns the positions where runs of True begin and end, in alternation."""
    return np.flatnonzero(np.diff(np.asarray([False, *mask, False], dtype=np.int8))).tolist()


def conversations(
    name: str,
    records: Callable[[Source, Report, OnError], Iterator[Record]],
    render: Callable[[Renderer, Sequence[Record]], Sequence[Rendered | UserError]],
    *,
    every_answer: bool = False,
) -> Kind[Conversation]:
    """Makes a kind whose rows are conversations."""
    return Kind(
        name,
        records,
        {"length": pa.int32(), "num_labels": pa.int32(), "ids": TOKENS, "learnt": pa.list_(pa.int32())},
        lambda renderer, some: [
            one if isinstance(one, UserError) else conversation_columns(one) for one in render(renderer, some)
        ],
        conversation_row,
        every_answer,
    )


def demonstrations(loss_on: Literal["all", "last"] = "all", *, learn_reasoning: bool = True) -> Kind[Conversation]:
    """Makes the kind of conversations whose answers, all or only the last, are to be imitated.

    Args:
        loss_on: Whether all answers are learnt, or only the last.
        learn_reasoning: Whether the thoughts of the answers are learnt.
    """
    return conversations(
        f"demonstrations, {loss_on}{'' if learn_reasoning else ' without thoughts'}",
        records_with("completion"),
        lambda renderer, records: renderer.conversations(
            [record.messages for record in records],
            loss_on,
            [record.tools for record in records],
            learn_reasoning=learn_reasoning,
        ),
        every_answer=loss_on == "all",
    )


def conversation_rows(rendered: Sequence[Rendered]) -> Rows[Conversation]:
    """Makes rows from conversations in memory."""
    largest = max(max(one.ids, default=0) for one in rendered)
    table = demonstrations().table(map(conversation_columns, rendered), largest + 1)
    return Rows(table, conversation_row)
