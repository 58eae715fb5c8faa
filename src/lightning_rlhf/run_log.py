"""`train.log` in the folder of a run: everything that was printed, with time stamps, and the warnings of all ranks."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_rlhf.errors import UserError


class RunLog:
    """A file to which all processes of a run append lines. Lines that were printed before it is opened wait for it."""

    def __init__(self) -> None:
        """Starts without a file."""
        self.kept = False
        self._file: int | None = None
        self._waiting: list[str] = []

    def start(self) -> None:
        """Begins to keep what is printed, for a file that `open` names later. An earlier file is closed."""
        if self._file is not None:
            os.close(self._file)
        self.kept, self._file, self._waiting = True, None, []

    def open(self, path: Path) -> None:
        """Writes to a file from now on; a run that goes on in its folder appends."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # With O_APPEND, the lines of several processes never overwrite each other.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._append("".join(self._waiting))
        self._waiting = []

    def write(self, text: str) -> None:
        """Adds lines, each with the time and, except for the first process, with the rank."""
        if not self.kept:
            return
        rank = getattr(rank_zero_only, "rank", 0)
        start = time.strftime("%Y-%m-%d %H:%M:%S ") + (f"[rank {rank}] " if rank else "")
        lines = "".join(f"{start}{line.rstrip()}\n" for line in text.splitlines() if line.strip())
        if self._file is None:
            self._waiting.append(lines)
        else:
            self._append(lines)

    def _append(self, lines: str) -> None:
        if self._file is not None and lines:
            os.write(self._file, lines.encode("utf-8", "replace"))


LOG = RunLog()
"""The log of the run in this process."""


class _Copied:
    """A standard stream, of which every line also goes to the log.

    The console of the run and the bars of rich write to the stream below, which rich looks for under this name.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream
        self.rest = ""

    def write(self, text: str) -> int:
        # A bar stands on the terminal of the first process, and lines of others would land inside it.
        if not (getattr(rank_zero_only, "rank", 0) and self.rich_proxied_file.isatty()):
            self.rich_proxied_file.write(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            # A bar of another library overwrites its line.
            LOG.write(line.rstrip("\r").rpartition("\r")[2])
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class _Records(logging.Handler):
    """Adds log records to the log: messages of the first process, and warnings of all."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or not getattr(rank_zero_only, "rank", 0):
            LOG.write(self.format(record))


@contextmanager
def everything_logged() -> Iterator[RunLog]:
    """Context in which the log gets everything that is printed or logged, and the error that ends the run."""
    LOG.start()
    root, handler, streams = logging.getLogger(), _Records(logging.INFO), (sys.stdout, sys.stderr)
    copied = tuple(map(_Copied, streams))
    root.addHandler(handler)
    sys.stdout, sys.stderr = copied
    try:
        yield LOG
    except (UserError, KeyboardInterrupt):
        # The command prints these in its own words.
        raise
    except BaseException:
        LOG.write(traceback.format_exc())
        raise
    finally:
        root.removeHandler(handler)
        # Something else may have replaced the streams in the meantime.
        for name, copy, stream in zip(("stdout", "stderr"), copied, streams, strict=True):
            if getattr(sys, name) is copy:
                setattr(sys, name, stream)
