"""A file of JSON lines that survives a kill: each line is on the disk before the next step is taken."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import json_lines

Entry = dict[str, Any]


class Journal:
    """Reads what earlier processes have written, and appends to it.

    A process that is killed while it writes leaves a part of a line, which the next one removes. Several threads may
    append, but only one process at a time.

    Attributes:
        entries: All entries, in the order of the file.
    """

    def __init__(self, file: Path, setting: str) -> None:
        """Opens a file, or makes a new one.

        Args:
            file: The file.
            setting: The setting that names its place, for messages.

        Raises:
            UserError: If another process has opened the file, or it contains something else.
        """
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._process = FileLock(file.with_name(f".{file.name}.lock"))
        try:
            self._process.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{setting}: another process is writing {file}; wait for it, or choose another") from error
        self._thread = Lock()
        try:
            whole, self.entries = _read(file, setting)
        except UserError:
            self._process.release()
            raise
        self._stream = file.open("ab")
        self._stream.truncate(whole)

    def append(self, entry: Entry) -> None:
        """Appends an entry, and returns when it is on the disk."""
        line = json_lines([entry])
        with self._thread:
            self._stream.write(line)
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self.entries.append(entry)

    def close(self) -> None:
        """Closes the file, so that another process may open it."""
        self._stream.close()
        self._process.release()


def _read(file: Path, setting: str) -> tuple[int, list[Entry]]:
    """Returns how many bytes of a file are whole lines, and their entries."""
    if not file.exists():
        return 0, []
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    entries = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"{setting}: {file}:{number} is not valid JSON ({error}); choose another place") from error
        if not isinstance(entry, dict):
            raise UserError(f"{setting}: {file}:{number} is no JSON object; choose another place")
        entries.append(entry)
    return whole, entries
