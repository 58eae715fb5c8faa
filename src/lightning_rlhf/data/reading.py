"""Reads the rows of the data modules, splits off held-out rows, and tells what became of all rows."""

import logging
from typing import TypeVar

import numpy as np

from lightning_rlhf.data.faults import OnError, kinds_of
from lightning_rlhf.data.kinds import Kind
from lightning_rlhf.data.prepare import Prepared, prepare
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data, Source, held_out_source, sources_of
from lightning_rlhf.data.split import split_by_position
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)
Row = TypeVar("Row")


def read(source: Source, kind: Kind[Row], renderer: Renderer, on_error: OnError) -> Prepared[Row]:
    """Prepares data, and tells how many rows were read, which were skipped, and what was done to the others."""
    prepared = prepare(source, kind, renderer, on_error)
    report = prepared.report
    _tell(f"{prepared.name}: {_rows(report.read)} read")
    for note, count in sorted(report.notes.items()):
        _tell(f"{prepared.name}: {note}: {count:,}")
    if prepared.others:
        others = ", ".join(name or "files of no split" for name in prepared.others)
        _tell(f"{prepared.name}: not read: {others}")
    if report.skipped:
        kinds = "; ".join(kinds_of(report.skipped))
        _tell(f"{prepared.name}: skipped {_rows(len(report.skipped), 'wrong row')}: {kinds}", logging.WARNING)
    return prepared


def read_split(
    data: Data,
    kind: Kind[Row],
    renderer: Renderer,
    val_data: Data | None,
    *,
    val_fraction: float,
    max_length: int,
    on_error: OnError,
    reading: Reading,
) -> tuple[tuple[str, Rows[Row]], tuple[str, Rows[Row]]]:
    """Prepares training rows and held-out rows.

    The latter are those of `val_data`, or a split of the data for validation or tests, or else a share of the prompts.

    Returns:
        Name and rows of the training data, and of the held-out data; long rows are included.
    """
    source, held_out = sources_of(data, reading)
    if val_data is not None:
        held_out = held_out_source(val_data, reading)
    train = read(source, kind, renderer, on_error)
    if held_out is not None:
        val = read(held_out, kind, renderer, on_error)
        return (train.name, train.rows), (val.name, val.rows)
    # At least one prompt on each side must have a row that the limit keeps.
    places = split_by_position(train.positions, val_fraction, train.rows.numbers("length") <= max_length)
    first, second = ((train.name, train.rows.at(side)) for side in places)
    return first, second


def fitting(name: str, rows: Rows[Row], max_length: int, lengths: np.ndarray | None = None) -> Rows[Row]:
    """Skips rows that are too long, and reports how many.

    Args:
        name: Name of the data in messages.
        rows: The rows.
        max_length: Length limit in tokens.
        lengths: (rows,) lengths to compare with the limit; None takes the column `length`.

    Raises:
        UserError: If no row is left.
    """
    short = (rows.numbers("length") if lengths is None else lengths) <= max_length
    too_long = int((~short).sum())
    if too_long == len(rows):
        raise UserError(f"{name}: all {len(rows)} rows are longer than {max_length} tokens: raise the limit")
    if too_long:
        _tell(f"{name}: left out {too_long} of {len(rows)} rows, longer than {max_length} tokens", logging.WARNING)
    return rows.at(rows.places[short])


def tell_epoch(num_rows: int, num_held_out: int, minibatch_size: int | None = None, *, drop_last: bool = False) -> None:
    """Tells how many rows are left, and what an epoch makes of them.

    Args:
        num_rows: Number of rows to train on.
        num_held_out: Number of rows that are held out.
        minibatch_size: Number of rows of an optimizer step; None if the stage samples responses to the rows.
        drop_last: Whether an epoch leaves out the rows that do not fill a minibatch.
    """
    told = f"{_rows(num_rows)} to train on, {num_held_out:,} held out"
    if minibatch_size is not None:
        whole, rest = divmod(num_rows, minibatch_size)
        told += f"; an epoch has {whole:,} minibatch{'es' if whole != 1 else ''} of {minibatch_size}"
        if rest:
            unseen = f", and leaves {rest} rows unseen (drop_last=true)"
            told += unseen if drop_last else f", and one of the other {rest}"
    _tell(told)


def _rows(count: int, what: str = "row") -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _tell(message: str, level: int = logging.INFO) -> None:
    if is_first_process():
        log.log(level, "%s", message)
