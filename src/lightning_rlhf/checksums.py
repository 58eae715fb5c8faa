"""Checksums of the files in a folder, in the format of `sha256sum`: `sha256sum -c SHA256SUMS` checks them too.

A folder with checksums appears in one step (`saving.appearing`), so it never has those of other files. Checkpoints of
one file need none beside them: what `torch.save` writes is a zip archive, which has a checksum of each of its records.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from lightning_rlhf.errors import UserError

SUMS = "SHA256SUMS"


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of files, by their paths from a folder."""
    return {file.relative_to(folder).as_posix(): _digest(file) for file in files}


def write_checksums(folder: Path, sums: Mapping[str, str]) -> None:
    """Writes what `checksums` has returned into the folder."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_text(lines, encoding="utf-8")


def check_checksums(folder: Path, setting: str) -> None:
    """Compares the files of a folder with their checksums. A folder without them passes.

    Args:
        folder: The folder.
        setting: What messages call it, such as `checkpoint=FOLDER`.

    Raises:
        UserError: If a file is missing or has another content.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return
    for line in sums.read_bytes().decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        # A file of checksums need not be trusted either.
        if not name or not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{setting}: {SUMS} is damaged: no checksum and name of a file here: {line[:80]!r}")
        if not file.is_file():
            raise UserError(f"{setting}: {name} is missing, which {SUMS} names: copy the folder again")
        if _digest(file) != digest:
            raise UserError(
                f"{setting}: {name} is damaged: its SHA-256 is not the one in {SUMS}: copy or write the folder again; "
                f"if you have changed the file yourself, remove {SUMS}"
            )


def _digest(file: Path) -> str:
    status = file.stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns)


# Several roles of a run may start from the same files.
@lru_cache(maxsize=1024)
def _digest_of(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
