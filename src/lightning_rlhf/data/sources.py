"""What data may be given as: a path, or rows that are in memory already; all of them are read by one reader."""

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
"""A path or name as `read_rows` takes it, a `datasets.Dataset`, a torch `Dataset` of dicts, or a list of dicts."""


class Source(NamedTuple):
    """Rows, wherever they come from.

    Attributes:
        name: What messages call it.
        content: A digest of all that is in it; None if that cannot be told.
        rows: Reads the rows, each with its place.
    """

    name: str
    content: str | None
    rows: Callable[[], Iterator[tuple[Row, str]]]


def source_of(data: Data, split: str = "train") -> Source:
    """Looks at data; rows of files are not read yet.

    Args:
        data: A path or name, or rows.
        split: Which split of a Hugging Face data set to read; others have none.

    Raises:
        UserError: If there are no such data.
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
        # Of `datasets`: it knows the digest of all that made it, but where it is streamed.
        rows, content = data.with_format(None), getattr(data, "_fingerprint", None)
    elif isinstance(data, TorchDataset) and hasattr(data, "__len__"):
        # Not all of these end by themselves when they are iterated over; and what they draw at random stays as it is.
        rows = [data[place] for place in range(len(data))]
    if isinstance(rows, Sequence):
        content = _digest_of_rows(name, rows)
    return Source(name, content, partial(_not_empty, rows, name))


def _not_empty(rows: Iterable[Any], name: str) -> Iterator[tuple[Row, str]]:
    place = None
    for row, place in numbered(rows, name):
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: expected a dict, found {str(row)[:60]}")
        yield dict(row), place
    if place is None:
        raise UserError(f"data '{name}' holds no rows")


def _digest(split: str, files: Sequence[Path]) -> str | None:
    """Of names and contents; None if a file cannot be read, which is said when it is to be."""
    found = hashlib.blake2b(split.encode(), digest_size=16)
    try:
        for file in files:
            with file.open("rb") as stream:
                found.update(f"\0{file.name}\0".encode(errors="surrogateescape"))
                found.update(hashlib.file_digest(stream, "blake2b").digest())
    except OSError:
        return None
    return found.hexdigest()


def _digest_of_rows(name: str, rows: Iterable[Any]) -> str | None:
    """Of rows in memory; None if they hold what JSON does not."""
    found = hashlib.blake2b(name.encode(), digest_size=16)
    try:
        for row in rows:
            found.update(b"\n" + json.dumps(row).encode())
    except (TypeError, ValueError, RecursionError):
        return None
    return found.hexdigest()
