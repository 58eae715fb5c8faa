"""Reads the rows of a file, one at a time.

A row that cannot be read is a `WrongRow` in its place. A file that cannot be read any further raises a `UserError`,
which names the file and the line.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_rlhf.data.bounds import check_files
from lightning_rlhf.data.contents import content, lines
from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.folders import SUFFIXES
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
"""A row of data: its values by the names of the columns."""
Placed = tuple[Row | WrongRow, str]
"""A row, or what is wrong with it, and its place for messages: `train.jsonl:12` for files of lines, otherwise
`train.parquet, row 7`."""
T = TypeVar("T")

_LONGEST_CELL = 2**31 - 1
"""The largest limit that Python's csv module accepts on every platform, in characters."""


def read_file(file: Path) -> Iterator[Placed]:
    """Yields the rows of a file.

    JSONL, CSV and Parquet are streamed; a `.json` file is read as a whole.

    Args:
        file: `.json` (a list of objects, or `{"data": [...]}`), `.jsonl`, `.ndjson`, `.csv`, each also with `.gz`, or
            `.parquet`.

    Raises:
        UserError: If the file is damaged or of no known kind, or has no rows.
    """
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    readers = {".json": _read_json, ".jsonl": _read_lines, ".ndjson": _read_lines, ".csv": _read_csv}
    reader = _read_parquet if file.suffix.lower() == ".parquet" else readers.get(suffix)
    if reader is None:
        raise UserError(f"data file '{file}' is of no known kind; its name must end in one of {', '.join(SUFFIXES)}")
    yield from not_empty(reader(file), str(file))


def not_empty(rows: Iterable[T], name: str) -> Iterator[T]:
    """Yields rows; raises `UserError` if there are none."""
    row = None
    for row in rows:
        yield row
    if row is None:
        raise UserError(f"data '{name}' holds no rows")


def _decoded(line: bytes) -> str:
    try:
        # Some editors start a file with a byte order mark, which is not part of the data.
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongRow(f"not valid UTF-8 ({error.reason} at byte {error.start})") from error


def _text_lines(file: Path) -> Iterator[str]:
    """Decodes a file in which a row may have several lines; errors name the line."""
    for number, line in enumerate(lines(file), start=1):
        try:
            yield _decoded(line)
        except WrongRow as error:
            raise UserError(f"{file.name}:{number}: {error}") from error


def _object(value: object) -> Row:
    if not isinstance(value, dict):
        raise WrongRow(f"expected a JSON object, found {json.dumps(value)[:60]}")
    return value


def _read_lines(file: Path) -> Iterator[Placed]:
    for number, line in enumerate(lines(file), start=1):
        if line.strip():
            yield caught(_row_of_line, line), f"{file.name}:{number}"


def _row_of_line(line: bytes) -> Row:
    text = _decoded(line)
    try:
        return _object(_parsed(text))
    except RecursionError as error:
        raise WrongRow("the row is nested too deeply") from error
    except ValueError as error:
        if isinstance(error, WrongRow):
            raise
        raise WrongRow(f"not valid JSON ({error}), found {text.strip()[:60]!r}") from error


def _parsed(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_doubles)


def _without_doubles(pairs: list[tuple[str, object]]) -> Row:
    """Makes an object. Of two values with one key, Python takes the last without a word."""
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise WrongRow(f"the key '{next(key for key in keys if keys.count(key) > 1)}' occurs twice in an object")
    return row


def caught(function: Callable[[T], Row], value: T) -> Row | WrongRow:
    """Returns the row that a function makes of a value, or what is wrong with it."""
    try:
        return function(value)
    except WrongRow as error:
        return error


def _read_json(file: Path) -> Iterator[Placed]:
    raw = content(file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file.name}:{line}: not valid UTF-8 ({error.reason})") from error
    if not text.strip():
        return
    try:
        value = _parsed(text)
    except WrongRow as error:
        raise UserError(f"{file.name}: {error}") from error
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON lines: name the file .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{file.name}:{error.lineno}: not valid JSON ({error.msg}){hint}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name}: not valid JSON ({error})") from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError(f'{file.name}: expected a list of objects, or {{"data": [...]}}, found {text.strip()[:60]!r}')
    for number, row in enumerate(rows, start=1):
        yield caught(_object, row), f"{file.name}, row {number}"


def _read_csv(file: Path) -> Iterator[Placed]:
    # Python's default refuses cells of more than 131,072 characters, and the limit holds for the whole process.
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_text_lines(file), strict=True)
    header: list[str] | None = None
    end = 0
    try:
        for cells in reader:
            # A quoted cell may contain newlines; the place of a row is its first line.
            source, end = f"{file.name}:{end + 1}", reader.line_num
            if not cells:
                continue
            if header is None:
                header = cells
                if len(set(header)) != len(header):
                    raise UserError(f"{source}: the header names a column twice: {', '.join(header)}")
                continue
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True)), source
            else:
                yield WrongRow(f"found {len(cells)} columns, expected {len(header)} as in the header"), source
    except csv.Error as error:
        raise UserError(f"{file.name}:{end + 1}: not valid CSV ({error})") from error


def _read_parquet(file: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_files([file])
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                for row in _rows_of_batch(batch):
                    number += 1
                    yield row, f"{file.name}, row {number}"
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.name}, row {number + 1}: not valid Parquet ({first_line(error)})") from error


def _rows_of_batch(batch: "pa.RecordBatch") -> Iterator[Row | WrongRow]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        # Text that is not UTF-8, or a date that Python cannot represent, in at least one of the rows.
        yield from (caught(_row_of_slice, batch.slice(place, 1)) for place in range(len(batch)))


def _row_of_slice(row: "pa.RecordBatch") -> Row:
    found: Row = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            found[name] = column[0].as_py()
        except (ValueError, OverflowError) as error:
            raise WrongRow(f"field '{name}' cannot be read ({first_line(error)})") from error
    return found


def numbered(rows: Iterable[T], name: str) -> Iterator[tuple[T, str]]:
    """Yields rows with their places."""
    for number, row in enumerate(rows, start=1):
        yield row, f"{name}, row {number}"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
