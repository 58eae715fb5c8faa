"""A file of JSON lines that grows by whole lines only, whatever happens to the process or the disk."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import flush, json_lines, write_rows

Row = dict[str, Any]


class Journal:
    """Appends rows to a file, and returns when they are on the disk.

    If a process was killed while it wrote, the file may end in the middle of a line. Nobody was told that this line is
    saved, so it is removed when the file is opened again.

    Attributes:
        path: The file.
        rows: Everything in the file, in its order.
    """

    def __init__(self, path: Path, setting: str) -> None:
        """Reads the file, which is created with its first row.

        Args:
            path: The file.
            setting: Name of the setting that names the file, for messages.

        Raises:
            UserError: If the file cannot be read, or has other content.
        """
        self.path, self.setting = path, setting
        try:
            self.rows = self._read()
        except OSError as error:
            raise UserError(f"{setting}={path}: cannot be read: {error}") from error

    def append(self, rows: Sequence[Row]) -> None:
        """Adds rows, all or none.

        Raises:
            OSError: If they cannot be written. The file is as it was.
        """
        is_new = not self.path.exists()
        content = json_lines(rows)
        # Without a buffer, nothing is left to be written after an error.
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise
        if is_new:
            flush(self.path.parent, inside=False)
        self.rows += rows

    def replace(self, rows: Sequence[Row]) -> None:
        """Replaces everything in the file in one step."""
        write_rows(self.path, rows)
        self.rows = list(rows)

    def _read(self) -> list[Row]:
        if not self.path.exists():
            return []
        *lines, last = self.path.read_bytes().split(b"\n")
        rows = [self._row(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if last:
            # Somebody may have edited the file with a program that ends no last line.
            with self.path.open("r+b") as file:
                if (row := _row_of(last)) is None:
                    file.truncate(file.seek(-len(last), os.SEEK_END))
                else:
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                    rows.append(row)
        return rows

    def _row(self, number: int, line: bytes) -> Row:
        row = _row_of(line)
        if row is None:
            raise UserError(
                f"{self.setting}={self.path}: line {number} is not a JSON object, so this is another kind of file: "
                "name another, or mend the line"
            )
        return row


def _row_of(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
