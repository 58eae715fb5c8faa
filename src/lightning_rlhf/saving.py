"""Writes files and folders atomically: they are complete or absent, even if the process is killed or the power fails.

Each is written under a temporary name in the folder where it belongs, and then renamed. A temporary file in TMPDIR
would not do: a rename between two file systems is a copy, which can be interrupted. The content is flushed to the disk
(fsync) before the rename, because a crash could otherwise leave the name without the content.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Context that writes a file or folder, and renames it in one step when it is complete.

    If the context ends with an error, the target stays as it was before.

    Args:
        target: The final path. A file or folder that exists there is replaced.

    Yields:
        A path in the same folder, at which nothing exists yet.
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
    """The temporary path under which a file or folder is written."""
    return target.with_name(f".{target.name}.partial")


def put(partial: Path, target: Path) -> None:
    """Renames a file or folder, whose content is on the disk, to its final name, and replaces what has that name.

    No system call replaces one folder by another, so it takes two renames. If the process is killed between them, the
    older folder is left under another name; `restore` repairs this.
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
    """Renames an older folder back, if a process was killed before the replacement took its name.

    All processes may call it at the same time.
    """
    if not target.exists():
        with suppress(FileNotFoundError):
            _old(target).rename(target)


def flush(path: Path, *, inside: bool = True) -> None:
    """Waits until a file, or a folder with everything in it, is on the disk."""
    if inside and path.is_dir():
        for child in path.iterdir():
            flush(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
