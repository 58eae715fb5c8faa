"""Limits that no honest data reach, and that keep a damaged or hostile file from taking the memory of a machine."""

import stat
from collections.abc import Iterable
from pathlib import Path

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.errors import UserError

LONGEST_LINE = 64 * 2**20
"""Bytes of a line, which is read as a whole."""
LONGEST_ROW = 16 * 2**20
"""Characters of all texts of a row. A tokenizer takes about 45 bytes of memory for each."""
DEEPEST = 100
"""How many lists and objects may contain each other. Python's own limit is lower in some functions than in others."""
LARGEST_RATIO = 200
"""How much larger the content of a gzip file may be than the file. Texts shrink to a tenth, zeros to a thousandth."""
LEAST_UNPACKED = 64 * 2**20
"""Bytes that a gzip file of any size may contain."""


def check_row(row: dict[str, object]) -> None:
    """Checks the size and the depth of a row.

    Raises:
        WrongRow: If it is too large or too deep.
    """
    size, waiting = 0, [(value, 1) for value in row.values()]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict | list):
            if depth > DEEPEST:
                raise WrongRow(f"the row is nested more than {DEEPEST} deep")
            waiting += [(child, depth + 1) for child in (value.values() if isinstance(value, dict) else value)]
    if size > LONGEST_ROW:
        raise WrongRow(f"the row has {size:,} characters; at most {LONGEST_ROW:,} are read")


def check_files(files: Iterable[Path]) -> None:
    """Checks that files are plain files: they are read more than once, and those of devices may have no end.

    Raises:
        UserError: If one is a device or a pipe, a link to nothing, or cannot be looked at.
    """
    for file in files:
        try:
            mode = file.stat().st_mode
        except FileNotFoundError as error:
            raise UserError(f"data file '{file}' is a link to nothing: restore the file, or remove the link") from error
        except OSError as error:
            raise UserError(f"data file '{file}' cannot be read: {error}") from error
        if not stat.S_ISREG(mode):
            raise UserError(f"data file '{file}' is a device, a pipe or a folder: write its rows into a plain file")
