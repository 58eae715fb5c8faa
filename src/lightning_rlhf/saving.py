"""Writes files and folders atomically: they are complete or absent, even if the process is killed or the power fails.

Each is written under a temporary name in the folder where it belongs, and then renamed. A temporary file in TMPDIR
would not do: a rename between two file systems is a copy, which can be interrupted. The content is flushed to the disk
(fsync) before the rename, because a crash could otherwise leave the name without the content.

JSON is written so that every parser reads it.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


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


@contextmanager
def keeping(target: Path, previous: Path) -> Iterator[None]:
    """Context that replaces a file or folder; what it was before is there afterwards under another name.

    The older content keeps its first name until the context replaces it, and takes no space of its own where the file
    system has hard links. If the context ends with an error, both names stay as they were.

    Args:
        target: The path that the context replaces, as `appearing` does.
        previous: The other name in the same folder; what has it is replaced.
    """
    if not target.exists():
        yield
        return
    with appearing(previous) as partial:
        if target.is_dir():
            shutil.copytree(target, partial, copy_function=_link)
        else:
            _link(target, partial)
        yield


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON file in one step; a reader sees the old file or the new one, but never a part."""
    with appearing(path) as partial:
        partial.write_text(strict_json(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object that may be unfinished; empty if the file is absent, is damaged, or holds another value."""
    try:
        content = json.loads(path.read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines in one step, as `write_json` writes an object."""
    with appearing(path) as partial:
        partial.write_bytes(json_lines(rows))


def json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Returns rows as JSON lines."""
    return b"".join(strict_json(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def strict_json(content: object, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Returns JSON that every parser reads: numbers that are NaN or infinite become null.

    JSON has no such numbers (RFC 8259, section 6). Python writes them as `NaN` and `Infinity`, which jq, JavaScript,
    Go and most databases refuse.

    Args:
        content: Anything that `json.dumps` takes.
        indent: See `json.dumps`.
        ensure_ascii: See `json.dumps`.
    """
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(content: object) -> object:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        # A key is a name, so a number that is not finite stays one as a text.
        return {str(key) if isinstance(key, float) else key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


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


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems have no hard links.
        shutil.copy2(source, target)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
