"""Reads the rows of the data modules, splits off held-out rows, and reports the rows that are skipped."""

import logging
from typing import TypeVar

import numpy as np

from lightning_rlhf.data.formats import OnError
from lightning_rlhf.data.kinds import Kind
from lightning_rlhf.data.prepare import Prepared, prepare
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.rows import Rows
from lightning_rlhf.data.sources import Data
from lightning_rlhf.data.split import split_by_position
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)
Row = TypeVar("Row")


def read(data: Data, kind: Kind[Row], renderer: Renderer, on_error: OnError) -> Prepared[Row]:
    """Prepares data, and reports how many rows were skipped."""
    prepared = prepare(data, kind, renderer, on_error)
    if prepared.skipped and is_first_process():
        log.warning(
            "%s: skipped %d wrong rows; the first: %s", prepared.name, len(prepared.skipped), prepared.skipped[0]
        )
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
) -> tuple[tuple[str, Rows[Row]], tuple[str, Rows[Row]]]:
    """Prepares training rows and held-out rows, which come from `val_data` or from a share of the prompts.

    Returns:
        Name and rows of the training data, and of the held-out data; long rows are included.
    """
    train = read(data, kind, renderer, on_error)
    if val_data is not None:
        val = read(val_data, kind, renderer, on_error)
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
    if too_long and is_first_process():
        log.warning("%s: left out %d of %d rows, longer than %d tokens", name, too_long, len(rows), max_length)
    return rows.at(rows.places[short])
