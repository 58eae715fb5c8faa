"""Writes rows to a file in one step."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_rlhf.saving import appearing, strict_json


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Returns rows as JSON lines."""
    return b"".join(strict_json(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows; a reader sees the old file or the new one, but never a part."""
    with appearing(file) as partial:
        partial.write_bytes(lines(rows))
