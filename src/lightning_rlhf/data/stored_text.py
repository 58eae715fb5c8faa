"""Lists that CSV or Parquet has stored as text: JSON, or what Python prints for a list."""

import ast
import json
import re
from collections.abc import Mapping

from lightning_rlhf.data.faults import WrongRow

# How a list of messages begins, also as NumPy prints it. No one begins a question or an answer like this.
_BEGIN = r"^\s*(?:array\()?\s*\[?\s*\{{\s*['\"](?:{})['\"]\s*:"
_USUAL = ("role", "content", "from", "value")


def stored_messages(text: str, name: str, keys: Mapping[str, str | None]) -> object:
    """Returns the list of messages that a text contains, or the text if it is none.

    Args:
        text: A cell of a table.
        name: Name of the field, for messages.
        keys: Names of the keys of messages in these data by their usual names.

    Raises:
        WrongRow: If the text is evidently a list of messages, but neither JSON nor a literal of Python.
    """
    names = sorted({*_USUAL, *(key for key in keys.values() if key)})
    if not re.match(_BEGIN.format("|".join(map(re.escape, names))), text):
        return text
    value = parsed(text)
    if isinstance(value, str):
        shown = text.strip()[:60]
        raise WrongRow(
            f"field '{name}' is a list of messages that was stored as text, but neither as JSON nor as a Python "
            f"literal ({shown!r}...): write the data as JSON lines or Parquet"
        )
    return value


def parsed(text: str) -> object:
    """Reads JSON, or a literal of Python, which is not run; returns the text if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text
