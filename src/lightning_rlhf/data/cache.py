"""Cache of prepared data on disk, below the cache of `datasets` (`HF_DATASETS_CACHE`).

One process of a machine prepares the data while the others wait for its file lock, which needs no connection between
them. A folder gets its final name when it is complete, and is read only if its content is unchanged.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from filelock import FileLock
from huggingface_hub.constants import HF_HOME

from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.saving import flush, partial_of, put, remove

log = logging.getLogger(__name__)
Read = TypeVar("Read")

_SEAL = "seal.json"


def cache_folder() -> Path:
    """Returns the folder of prepared data, which may be deleted whenever no run reads it."""
    # `datasets` finds its cache in the same way. Importing it would take half a second, and is not needed to read data.
    return Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets")).expanduser() / "lightning_rlhf"


def kept(key: str | None, write: Callable[[Path], bool], read: Callable[[Path], Read]) -> Read:
    """Reads a folder of the cache, and writes it first if it does not exist.

    If the cache cannot be written, or the content must not be kept, each process writes a folder of its own and removes
    its name at once: files that are mapped into memory exist as long as they are read.

    Args:
        key: Digest of everything that the content depends on; None if there is no such digest.
        write: Function that writes the folder to a path, and returns whether it may be kept.
        read: Function that reads the folder, by loading its files or mapping them into memory.
    """
    if key is not None:
        folder = cache_folder()
        if _is_whole(folder / key):
            return read(folder / key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock"):
                # Another process may have written the folder in the meantime.
                return read(folder / key) if _is_whole(folder / key) else _written(folder / key, write, read)
        except (OSError, NotImplementedError) as error:  # NotImplementedError if the file system has no locks
            if is_first_process():
                log.warning(
                    "%s: cannot be written (%s): prepared data are not kept, see HF_DATASETS_CACHE", folder, error
                )
    with TemporaryDirectory() as temporary:
        write(Path(temporary) / "rows")
        return read(Path(temporary) / "rows")


def _written(folder: Path, write: Callable[[Path], bool], read: Callable[[Path], Read]) -> Read:
    partial = partial_of(folder)
    remove(partial)
    try:
        keep = write(partial)
        result = read(partial)
        if keep:
            (partial / _SEAL).write_text(json.dumps(_digests(partial)), encoding="utf-8")
            flush(partial)
            put(partial, folder)
    finally:
        remove(partial)
    return result


def _is_whole(folder: Path) -> bool:
    """Checks whether the content of a folder is unchanged, byte by byte."""
    try:
        return json.loads((folder / _SEAL).read_text(encoding="utf-8")) == _digests(folder)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name != _SEAL:
            with file.open("rb") as stream:
                found[file.name] = hashlib.file_digest(stream, "blake2b").hexdigest()
    return found
