"""The forms in which data may be given: a path, or rows in memory. The same reader reads all of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from torch.utils.data import Dataset as TorchDataset

from lightning_rlhf.data.files import Row, load_hub, local_files, numbered, read_rows
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Data = Union[str, "Dataset", TorchDataset, Sequence[Row]]
"""A path or name for `read_rows`, a `datasets.Dataset`, a torch `Dataset` of dicts, or a list of dicts."""


class Source(NamedTuple):
    """Rows from any source.

    Attributes:
        name: Name of the data in messages.
        content: Digest of the content; None if there is no digest.
        rows: Function that reads the rows, each with its place.
    """

    name: str
    content: str | None
    rows: Callable[[], Iterator[tuple[Row, str]]]


def source_of(data: Data, split: str = "train") -> Source:
    """Makes a source from data, without reading the rows of files.

    Args:
        data: A path or name, or rows.
        split: Split of a Hugging Face data set to read; other data have no splits.

    Raises:
        UserError: If the data do not exist.
    """
    if isinstance(data, str):
        files = local_files(data)
        if files is None:
            loaded = load_hub(data, split)
            return Source(data, loaded._fingerprint, partial(_not_empty, loaded, data))
        return Source(data, _digest(split, files), partial(read_rows, data, split=split))
    name = type(data).__name__
    rows: Any = data
    content: str | None = None
    if hasattr(data, "with_format"):
        # A data set of `datasets` has a digest of everything that produced it, unless it is streamed.
        rows, content = data.with_format(None), getattr(data, "_fingerprint", None)
    elif isinstance(data, TorchDataset) and hasattr(data, "__len__"):
        # Some of these do not end when they are iterated over. The list also fixes what they draw at random.
        rows = [data[place] for place in range(len(data))]
    if isinstance(rows, Sequence):
        content = _digest_of_rows(name, rows)
    return Source(name, content, partial(_not_empty, rows, name))


def _not_empty(rows: Iterable[object], name: str) -> Iterator[tuple[Row, str]]:
    place = None
    for row, place in numbered(rows, name):
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: expected a dict, found {str(row)[:60]}")
        yield dict(row), place
    if place is None:
        raise UserError(f"data '{name}' holds no rows")


def _digest(split: str, files: Sequence[Path]) -> str | None:
    """Computes a digest of names and contents; None if a file cannot be read, which is reported when it is read."""
    found = hashlib.blake2b(split.encode(), digest_size=16)
    try:
        for file in files:
            with file.open("rb") as stream:
                found.update(f"\0{file.name}\0".encode(errors="surrogateescape"))
                found.update(hashlib.file_digest(stream, "blake2b").digest())
    except OSError:
        return None
    return found.hexdigest()


def _digest_of_rows(name: str, rows: Iterable[object]) -> str | None:
    """Computes a digest of rows in memory; None if they contain values that JSON cannot represent."""
    found = hashlib.blake2b(name.encode(), digest_size=16)
    try:
        for row in rows:
            found.update(b"\n" + json.dumps(row).encode())
    except (TypeError, ValueError, RecursionError):
        return None
    return found.hexdigest()
