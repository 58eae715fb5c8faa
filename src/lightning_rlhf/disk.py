"""Checks that a disk has room for what is about to be written, so that an error says how much is needed."""

import shutil
from pathlib import Path

from lightning_rlhf.errors import UserError
from lightning_rlhf.sizes import readable


def free_bytes(folder: Path) -> int:
    """The bytes that this user may still write to the disk of a folder."""
    return shutil.disk_usage(folder).free


def check_room(target: Path, needed: int) -> None:
    """Checks that a file or folder fits on its disk, beside what it replaces when it is complete.

    Args:
        target: What is about to be written, in a folder that exists.
        needed: Its size in bytes.

    Raises:
        UserError: If it does not fit.
    """
    if (free := free_bytes(target.parent)) < needed:
        raise UserError(
            f"{target}: it takes {readable(needed)}, and the disk has {readable(free)} free: free at least "
            f"{readable(needed - free)}; what was written before is still there"
        )
