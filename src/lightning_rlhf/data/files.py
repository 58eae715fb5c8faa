"""Reads rows from files, folders, package resources and Hugging Face data sets, one at a time.

Every problem with a file raises one `UserError`, which names the file and the line.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
"""A row of data: its values by the names of the columns."""
T = TypeVar("T")

_TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv")
_SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet")
_PATH_STARTS = ("/", "./", "../", "~")
_PACKAGE_SCHEME = "pkg://"
_LONGEST_CELL = 2**31 - 1
"""The largest limit that Python's csv module accepts on every platform, in characters."""


def read_rows(path: str, *, split: str = "train") -> Iterator[tuple[Row, str]]:
    """Yields the rows of a data set, each with its place.

    JSONL, CSV, Parquet and data sets on disk are streamed; a `.json` file is read as a whole.

    Args:
        path: One of
            - a file: `.json` (a list of objects, or `{"data": [...]}`), `.jsonl`, `.ndjson`, `.csv`, each also with
              `.gz`, or `.parquet`;
            - a folder of such files, read in the order of their names, or one written by `datasets.save_to_disk`;
            - `pkg://package.name/file`, a file inside an installed package;
            - the name of a Hugging Face data set, if there is no such file and it does not look like a file.
        split: Split of a Hugging Face data set to read; files have no splits.

    Yields:
        A row, and its place for messages: `train.jsonl:12` for files of lines, otherwise `train.parquet, row 7`.

    Raises:
        UserError: If the data do not exist, are damaged, or have no rows.
    """
    files = local_files(path)
    if files is None:
        yield from _not_empty(numbered(load_hub(path, split), path), path)
    elif _is_saved(folder := Path(path).expanduser()):
        yield from _read_saved(folder, split)
    else:
        for file in files:
            yield from _read_file(file)


def local_files(path: str) -> list[Path] | None:
    """Returns the files of a path in the order of reading; None if it is the name of a Hugging Face data set.

    Raises:
        UserError: If there are no such files.
    """
    if path.startswith(_PACKAGE_SCHEME):
        return [_resource(path)]
    local = Path(path).expanduser()
    if _is_saved(local):
        return sorted(file for file in local.rglob("*") if file.is_file())
    if local.is_dir():
        files = sorted(file for file in local.iterdir() if file.is_file() and file.name.lower().endswith(_SUFFIXES))
        if not files:
            raise UserError(f"data folder '{local}' holds no file of a known kind ({', '.join(_SUFFIXES)})")
        return files
    if local.exists():
        return [local]
    if path.startswith(_PATH_STARTS) or path.lower().endswith(_SUFFIXES):
        raise UserError(f"data file '{path}' does not exist (looked at {local.absolute()})")
    return None


def _is_saved(folder: Path) -> bool:
    """Checks whether a folder was written by `save_to_disk` of `datasets`."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _resource(path: str) -> Path:
    package, _, name = path.removeprefix(_PACKAGE_SCHEME).partition("/")
    try:
        resource = resources.files(package).joinpath(name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise UserError(f"data file '{path}': there is no installed package '{package}'") from error
    if not name or not resource.is_file():
        raise UserError(f"data file '{path}' does not exist (looked at {resource})")
    # Installed packages are not zipped, so the resource is a file.
    return Path(str(resource))


def _read_file(file: Path) -> Iterator[tuple[Row, str]]:
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    readers = {".json": _read_json, ".jsonl": _read_lines, ".ndjson": _read_lines, ".csv": _read_csv}
    reader = _read_parquet if file.suffix.lower() == ".parquet" else readers.get(suffix)
    if reader is None:
        raise UserError(f"data file '{file}' is of no known kind; its name must end in one of {', '.join(_SUFFIXES)}")
    yield from _not_empty(reader(file), str(file))


def _not_empty(rows: Iterable[tuple[Row, str]], name: str) -> Iterator[tuple[Row, str]]:
    row = None
    for row in rows:
        yield row
    if row is None:
        raise UserError(f"data '{name}' holds no rows")


def _text_lines(file: Path) -> Iterator[str]:
    """Decodes a file line by line, so that errors can name the line."""
    number = 0
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            for line in stream:
                number += 1
                # Some editors start a file with a byte order mark, which is not part of the data.
                yield line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name}:{number}: not valid UTF-8 ({error.reason} at byte {error.start})") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file.name}:{number + 1}: the gzip file is truncated or damaged ({error})") from error
    except OSError as error:
        raise UserError(f"data file '{file}' cannot be read: {error}") from error


def _object(value: object, source: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{source}: expected a JSON object, found {json.dumps(value)[:60]}")
    return value


def _read_lines(file: Path) -> Iterator[tuple[Row, str]]:
    for number, line in enumerate(_text_lines(file), start=1):
        if not line.strip():
            continue
        source = f"{file.name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}: not valid JSON ({error}), found {line.strip()[:60]!r}") from error
        yield _object(value, source), source


def _read_json(file: Path) -> Iterator[tuple[Row, str]]:
    text = "".join(_text_lines(file))
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON lines: name the file .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{file.name}:{error.lineno}: not valid JSON ({error.msg}){hint}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name}: not valid JSON ({error})") from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError(f'{file.name}: expected a list of objects, or {{"data": [...]}}, found {text.strip()[:60]!r}')
    for number, row in enumerate(rows, start=1):
        source = f"{file.name}, row {number}"
        yield _object(row, source), source


def _read_csv(file: Path) -> Iterator[tuple[Row, str]]:
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
            if len(cells) != len(header):
                raise UserError(f"{source}: found {len(cells)} columns, expected {len(header)} as in the header")
            yield dict(zip(header, cells, strict=True)), source
    except csv.Error as error:
        raise UserError(f"{file.name}:{end + 1}: not valid CSV ({error})") from error


def _read_parquet(file: Path) -> Iterator[tuple[Row, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{file.name}, row {number}"
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.name}, row {number + 1}: not valid Parquet ({_first_line(error)})") from error


def _read_saved(folder: Path, split: str) -> Iterator[tuple[Row, str]]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(folder)
    except Exception as error:  # damaged folders raise anything from KeyError to ArrowInvalid
        raise UserError(f"data folder '{folder}' cannot be read: {_first_line(error)}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise UserError(f"data folder '{folder}' has no split '{split}', only {', '.join(map(repr, data))}")
        data = data[split]
    yield from _not_empty(numbered(data, folder.name), str(folder))


def load_hub(name: str, split: str) -> "Dataset":
    """Loads a Hugging Face data set.

    Raises:
        UserError: If it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split)
    except Exception as error:  # the hub's failures have no common class
        raise UserError(
            f"data '{name}' is no file or folder (looked at {Path(name).absolute()}), "
            f"and as a Hugging Face data set it cannot be loaded: {_first_line(error)}"
        ) from error


def numbered(rows: Iterable[T], name: str) -> Iterator[tuple[T, str]]:
    """Yields rows with their places."""
    for number, row in enumerate(rows, start=1):
        yield row, f"{name}, row {number}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
