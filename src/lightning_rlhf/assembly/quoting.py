"""Writes overrides so that Hydra and a shell read them as they are meant, and names those that Hydra misreads."""

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException


def override(key: str, value: str) -> str:
    """An override as one argument of a command. The value is in quotes if Hydra would not read it as this text."""
    plain = f"{key}={value}"
    read = parsed(plain)
    if read is not None and not read.is_sweep_override() and read.value() == value:
        return plain
    # In a quoted text, backslashes are ordinary characters unless a quote follows.
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), value)
    return f'{key}="{escaped}"'


def parsed(text: str) -> Override | None:
    """An override as Hydra reads it; None if it cannot read it."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def misread(text: str, *, sweeps: bool) -> str | None:
    """Says how to write an override that Hydra cannot read, or would read as a sweep.

    Args:
        text: The override, as one argument of the command.
        sweeps: Whether commas separate the values of a sweep, as with `-m`.

    Returns:
        The message; None if Hydra reads the override.
    """
    read = parsed(text)
    if read is not None and (sweeps or read.value_type != ValueType.SIMPLE_CHOICE_SWEEP):
        return None
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[+~]{0,2}[\w@/.:$-]+", key):
        return f"{text}: expected NAME=VALUE; a value with spaces needs quotes: {shlex.quote('NAME=the value')}"
    quoted = shlex.quote(override(key, value))
    if read is not None:
        return f"{text}: a comma separates the values of a sweep (-m). Write a text as {quoted}, or a list as " + (
            shlex.quote(f"{key}=[{value}]")
        )
    brackets = " (this is neither a complete list, [a,b], nor a mapping, {a: 1})" if value[:1] in ("[", "{") else ""
    return f"{text}: the value has characters that need quotes{brackets}. Write it as {quoted}"
