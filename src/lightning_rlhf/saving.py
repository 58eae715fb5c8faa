"""Files and folders that are there whole or not at all, whenever the process is killed or the machine loses its power.

They are written beside the place where they go: between two file systems, such as that of TMPDIR and that of the run
folder, there is no renaming, only a copy, which can be cut. Before a file gets its name its content is on the disk
(fsync), or a crash could leave the name without it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A file or folder that gets its name in one step, when it is whole; an error leaves what was there before.

    Args:
        target: Where it goes; what is there is replaced.

    Yields:
        A path beside it, at which nothing is yet.
    """
    partial = partial_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        yield partial
        flush(partial)
        put(partial, target)
    finally:
        remove(partial)


def partial_of(target: Path) -> Path:
    """Where a file or folder is written."""
    return target.with_name(f".{target.name}.partial")


def put(partial: Path, target: Path) -> None:
    """Gives a file or folder, whose content is on the disk, the name of another one.

    No system call can replace a folder by another. A process that is killed between the two that it takes leaves the
    older one under another name: see `restore`.
    """
    old = _old(target)
    if target.is_dir() and not target.is_symlink():
        remove(old)
        target.rename(old)
    elif partial.is_dir():
        target.unlink(missing_ok=True)
    partial.rename(target)
    flush(target.parent, inside=False)
    remove(old)


def restore(target: Path) -> None:
    """Gives an older folder its name back, if a process was killed when its replacement had not taken it yet.

    All processes may do it at once.
    """
    if not target.exists():
        with suppress(FileNotFoundError):
            _old(target).rename(target)


def flush(path: Path, *, inside: bool = True) -> None:
    """Waits until a file, or a folder with all that is in it, is on the disk."""
    if inside and path.is_dir():
        for child in path.iterdir():
            flush(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
