"""Reads the bytes of a file, by lines or as a whole, and never more of them than an honest file has."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, cast

from lightning_rlhf.data.bounds import LARGEST_RATIO, LEAST_UNPACKED, LONGEST_LINE, check_files
from lightning_rlhf.errors import UserError

_DAMAGED = "the gzip file is truncated or damaged"


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    check_files([file])
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            yield cast(IO[bytes], stream)
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file.name}: {_DAMAGED} ({error})") from error
    except OSError as error:
        raise UserError(f"data file '{file}' cannot be read: {error}") from error


def lines(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file, which may end with .gz.

    Raises:
        UserError: If the file cannot be read any further, or a line is too long.
    """
    with _opened(file) as stream:
        for number in count(1):
            try:
                line = stream.readline(LONGEST_LINE + 1)
            except (EOFError, zlib.error) as error:
                raise UserError(f"{file.name}:{number}: {_DAMAGED} ({error})") from error
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise UserError(f"{file.name}:{number}: the line is longer than {LONGEST_LINE:,} bytes")
            yield line


def content(file: Path) -> bytes:
    """Returns the whole content of a file, which a gzip file of zeros could make as large as it likes.

    Raises:
        UserError: If the file cannot be read, or contains far more than its size.
    """
    most = max(LEAST_UNPACKED, LARGEST_RATIO * file.stat().st_size)
    with _opened(file) as stream:
        found = stream.read(most + 1)
    if len(found) > most:
        raise UserError(
            f"data file '{file}' contains more than {LARGEST_RATIO} times its own size; unpack it if you trust it "
            f"(gunzip {file.name})"
        )
    return found
