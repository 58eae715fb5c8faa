"""Sizes in bytes, as people write and read them."""

import re

from lightning_rlhf.errors import UserError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str | int | float, name: str) -> int:
    """Parses a size such as `80GB` (units of 10^9 bytes), `24GiB` (units of 2^30 bytes) or a plain number of bytes.

    Args:
        text: The size as the user gave it.
        name: Name of the setting, for the message.

    Raises:
        UserError: If the text is not a size, or the size is less than one byte.
    """
    match = re.fullmatch(r"\s*([\d.eE+]+)\s*([KMGT]?I?)B?\s*", str(text).upper())
    try:
        size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    except (ValueError, KeyError):
        size = 0
    if size < 1:
        raise UserError(f"{name}={text}: expected a size such as 80GB or 24GiB")
    return size


def readable(size: float) -> str:
    """Formats a number of bytes for people, such as `12.3 GiB`."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:.0f} B"
