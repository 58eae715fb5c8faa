"""Reads a public data set, converts its rows, and counts what was kept and dropped."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lightning_rlhf.console import TimedLines
from lightning_rlhf.data.faults import WrongRow, kind_of
from lightning_rlhf.data.importing.alpaca import ALPACA
from lightning_rlhf.data.importing.openassistant import OPENASSISTANT
from lightning_rlhf.data.importing.pairs import HH, REWARDBENCH, REWARDBENCH2, SHP
from lightning_rlhf.data.importing.rows import Dropped
from lightning_rlhf.data.importing.ultrafeedback import ULTRAFEEDBACK
from lightning_rlhf.data.sources import Source
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import appearing, strict_json

LAYOUTS = {layout.name: layout for layout in (HH, SHP, ALPACA, OPENASSISTANT, ULTRAFEEDBACK, REWARDBENCH, REWARDBENCH2)}


class Converted(NamedTuple):
    """What became of the rows of a data set.

    Attributes:
        read: Number of rows that were read.
        kept: Number of rows that were written to each file.
        dropped: Number of rows, or of parts of rows, that were dropped for each reason.
    """

    read: int
    kept: dict[str, int]
    dropped: dict[str, int]


def convert(source: Source, layout: str, folder: Path, *, where: Mapping[str, object], limit: int | None) -> Converted:
    """Writes the rows of a data set in the formats that the stages read.

    Args:
        source: The data set.
        layout: A name of `LAYOUTS`.
        folder: Folder of the files, which appears when they are complete.
        where: Values that columns of a row must have.
        limit: Number of rows to read; None for all.

    Raises:
        UserError: If the data cannot be read, or nothing is kept.
    """
    read, dropped, kept = Counter[str](), Counter[str](), Counter[str]()
    rows = _rows(source, where, limit, read, dropped)
    with appearing(folder) as partial, ExitStack() as files:
        partial.mkdir()
        streams: dict[str, BinaryIO] = {}
        for found in LAYOUTS[layout].convert(rows):
            if isinstance(found, Dropped):
                dropped[found.reason] += 1
                continue
            name, row = found
            if name not in streams:
                streams[name] = files.enter_context((partial / f"{name}.jsonl").open("wb"))
            streams[name].write(strict_json(row, ensure_ascii=False).encode() + b"\n")
            kept[name] += 1
        if not kept:
            reasons = "; ".join(f"{reason} ({count:,})" for reason, count in dropped.most_common(5))
            raise UserError(f"layout={layout}: none of the {read['rows']:,} rows of {source.name} fits: {reasons}")
        files.close()
    return Converted(read["rows"], dict(kept), dict(dropped))


def _rows(
    source: Source, where: Mapping[str, object], limit: int | None, read: Counter[str], dropped: Counter[str]
) -> Iterator[Mapping[str, Any]]:
    lines = TimedLines()
    for row, _ in islice(source.rows(), limit):
        read["rows"] += 1
        lines.say(f"{source.name}: {read['rows']:,} rows read")
        if isinstance(row, WrongRow):
            dropped[kind_of(row)] += 1
        elif reason := _unwanted(row, where):
            dropped[reason] += 1
        else:
            yield row


def _unwanted(row: Mapping[str, Any], where: Mapping[str, object]) -> str | None:
    """Why a row is not among those that are wanted; None if it is."""
    # A tree of OpenAssistant is described by its first message, which stands in `prompt`.
    inner = row.get("prompt")
    columns = {**inner, **row} if isinstance(inner, Mapping) else row
    for name, value in where.items():
        if name not in columns:
            return f"there is no column {name}"
        if columns[name] != value:
            return f"{name} is not {value}"
    return None
