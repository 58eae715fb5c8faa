"""The forms in which data may be given: a path, or rows in memory. The same reader reads all of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from torch.utils.data import Dataset as TorchDataset

from lightning_rlhf.data.bounds import check_files, check_row
from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.files import Placed, Row, caught, not_empty, numbered, read_file
from lightning_rlhf.data.folders import folder_splits
from lightning_rlhf.data.hub import is_saved, load_hub, load_saved
from lightning_rlhf.data.paths import as_path, local_file
from lightning_rlhf.data.splits import Reading, choose, held_out_of
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Data = Union[str, "Dataset", "DatasetDict", TorchDataset, Sequence[Row]]
"""A path or name, a `datasets.Dataset` or `DatasetDict`, a torch `Dataset` of dicts, or a list of dicts. A path is

- a file, see `read_file`;
- a folder of such files, see `folder_splits`, or one written by `datasets.save_to_disk`;
- `pkg://package.name/file`, a file inside an installed package;
- the name of a Hugging Face data set, if there is no such file and it does not look like a file.
"""


class Source(NamedTuple):
    """Rows from any source.

    Attributes:
        name: Name of the data in messages.
        content: Digest of the content; None if there is no digest.
        rows: Function that reads the rows, each with its place.
        reading: What the fields are called.
        others: The splits of the data that are not read.
    """

    name: str
    content: str | None
    rows: Callable[[], Iterator[Placed]]
    reading: Reading = Reading()
    others: Sequence[str] = ()

    @property
    def keys(self) -> dict[str, str | None]:
        """Names of the keys of messages in these data, by their usual names."""
        return self.reading.keys


Parts = dict[str, Source]
"""The splits of data by name; "" is the split of data that have none."""


def source_of(data: Data, reading: Reading | None = None) -> Source:
    """Makes the source of the rows to train on, without reading the rows of files.

    Args:
        data: A path or name, or rows.
        reading: Which part of the data is read, and what its fields are called.

    Raises:
        UserError: If the data or the split do not exist.
    """
    return sources_of(data, reading or Reading())[0]


def sources_of(data: Data, reading: Reading) -> tuple[Source, Source | None]:
    """Makes the source of the rows to train on, and that of a split of the same data to hold out, if there is one.

    Raises:
        UserError: If the data or a split do not exist, or if it is not clear which split is trained on.
    """
    name, parts, together = _parts(data, reading)
    chosen = choose(parts, reading, name, together=together)
    train = _joined(name, parts, chosen.train, reading)._replace(others=chosen.others)
    return train, _joined(name, parts, chosen.held_out, reading) if chosen.held_out else None


def held_out_source(data: Data, reading: Reading) -> Source:
    """Makes the source of data that are given as held out: of several splits, those that are not for training.

    Raises:
        UserError: If the data or the split do not exist.
    """
    name, parts, _ = _parts(data, reading)
    chosen = [reading.val_split] if reading.val_split in parts else held_out_of(parts, "")
    return _joined(name, parts, chosen or list(parts), reading)


def _joined(name: str, parts: Parts, chosen: Sequence[str], reading: Reading) -> Source:
    some = [parts[split] for split in chosen]
    digests = [part.content for part in some]
    columns = json.dumps([sorted((reading.columns or {}).items()), list(chosen)])
    known = None if None in digests else _digest_of(columns, *map(str, digests))
    named = f"{name} ({', '.join(chosen)})" if len(parts) > 1 else name
    return Source(named, known, lambda: _renamed(chain.from_iterable(part.rows() for part in some), reading), reading)


def _renamed(rows: Iterable[Placed], reading: Reading) -> Iterator[Placed]:
    def usable(row: Row) -> Row:
        check_row(row)
        return reading.renamed(row)

    for row, place in rows:
        yield (row if isinstance(row, WrongRow) else caught(usable, row)), place


def _parts(data: Data, reading: Reading) -> tuple[str, Parts, bool]:
    """Returns the name of data, their splits, and whether several splits for training are parts of one data set."""
    if not isinstance(data, str):
        name = type(data).__name__
        if hasattr(data, "num_columns") and isinstance(data, Mapping):
            return name, {split: _in_memory(rows, name) for split, rows in data.items()}, False
        return name, {"": _in_memory(data, name)}, True
    folder = as_path(data)
    if is_saved(folder):
        # The library reads these files as a whole; their digest takes less time than to open them.
        digest = _digest([file for file in sorted(folder.rglob("*")) if file.is_file()])
        sets = load_saved(folder)
        return data, {split: _of_set(rows, folder.name, digest) for split, rows in sets.items()}, False
    if folder.is_dir():
        splits, together = folder_splits(folder, reading.config_name)
        return data, {split: _of_files(data, some) for split, some in splits.items()}, together
    if (file := local_file(data)) is not None:
        return data, {"": _of_files(data, [file])}, True
    sets = load_hub(data, reading.config_name)
    return data, {split: _of_set(rows, data, rows._fingerprint) for split, rows in sets.items()}, False


def _of_files(name: str, files: Sequence[Path]) -> Source:
    check_files(files)
    return Source(name, _digest(files), lambda: chain.from_iterable(map(read_file, files)))


def _of_set(rows: "Dataset", name: str, content: str | None) -> Source:
    return Source(name, content, lambda: not_empty(numbered(rows, name), name))


def _in_memory(data: Any, name: str) -> Source:
    rows, content = data, None
    if hasattr(data, "with_format"):
        # A data set of `datasets` has a digest of everything that produced it, unless it is streamed.
        rows, content = data.with_format(None), getattr(data, "_fingerprint", None)
    elif isinstance(data, TorchDataset) and hasattr(data, "__len__"):
        # Some of these do not end when they are iterated over. The list also fixes what they draw at random.
        rows = [data[place] for place in range(len(data))]
    if isinstance(rows, Sequence):
        content = _digest_of_rows(name, rows)
    return Source(name, content, partial(_dicts, rows, name))


def _dicts(rows: Iterable[object], name: str) -> Iterator[Placed]:
    for row, place in not_empty(numbered(rows, name), name):
        if not isinstance(row, Mapping):
            raise UserError(f"{place}: expected a dict, found {str(row)[:60]}")
        yield dict(row), place


def _digest(files: Sequence[Path]) -> str | None:
    """Computes a digest of names and contents; None if a file cannot be read, which is reported when it is read."""
    found = hashlib.blake2b(digest_size=16)
    try:
        for file in files:
            with file.open("rb") as stream:
                found.update(f"\0{file.name}\0".encode(errors="surrogateescape"))
                found.update(hashlib.file_digest(stream, "blake2b").digest())
    except OSError:
        return None
    return found.hexdigest()


def _digest_of(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _digest_of_rows(name: str, rows: Iterable[object]) -> str | None:
    """Computes a digest of rows in memory; None if they contain values that JSON cannot represent."""
    found = hashlib.blake2b(name.encode(), digest_size=16)
    try:
        for row in rows:
            found.update(b"\n" + json.dumps(row).encode())
    except (TypeError, ValueError, RecursionError):
        return None
    return found.hexdigest()
