"""What the data modules share: reading with a held-out part, rendering with a limit, saying what was left out."""

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from lightning_rlhf.data.formats import Need, Record, read_records
from lightning_rlhf.data.split import split_by_prompt
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.errors import UserError

log = logging.getLogger(__name__)
Row = TypeVar("Row")
OnError = Literal["raise", "skip"]


def report_skipped(path: str, skipped: list[str]) -> None:
    """Says how many wrong rows were skipped, and shows the first."""
    if skipped and is_first_process():
        log.warning("%s: skipped %d wrong rows; the first: %s", path, len(skipped), skipped[0])


def read(path: str, need: Need, on_error: OnError) -> list[Record]:
    """Reads records and reports what was skipped."""
    records = read_records(path, need, on_error=on_error)
    report_skipped(path, records.skipped)
    return records.rows


def read_split(
    path: str, need: Need, val_path: str | None, *, val_fraction: float, on_error: OnError
) -> tuple[list[Record], list[Record]]:
    """Reads the records to train on and the held-out ones: a file of their own, or a share of the prompts."""
    records = read(path, need, on_error)
    if val_path is not None:
        return records, read(val_path, need, on_error)
    return split_by_prompt(records, val_fraction)


def rendered(
    records: list[Record],
    render: Callable[[Record], Row],
    length: Callable[[Row], int],
    *,
    path: str,
    max_length: int,
) -> list[Row]:
    """Renders records, leaves out those that are too long, and says how many.

    Raises:
        UserError: If none is left, or a record cannot be rendered; names its place.
    """
    rows = []
    # disable=None: no bar where the output is not a terminal.
    bar: Any = tqdm(
        records, desc=f"tokenizing {path}", delay=2, leave=False, disable=None if is_first_process() else True
    )
    for record in bar:
        try:
            row = render(record)
        except UserError as error:
            raise UserError(f"{record.source}: {error}") from error
        if length(row) <= max_length:
            rows.append(row)
    too_long = len(records) - len(rows)
    if not rows:
        raise UserError(f"{path}: all {len(records)} rows are longer than {max_length} tokens: raise the limit")
    if too_long and is_first_process():
        log.warning("%s: left out %d of %d rows, longer than %d tokens", path, too_long, len(records), max_length)
    return rows
