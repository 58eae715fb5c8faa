"""Functions that a setting names, such as advantage estimators and policy losses, and the settings that each declares.

A decorator adds a function to its table. The keyword-only parameters of the function are its settings. Settings that
several functions share have their own key in the configuration; all others are keys below `options`.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from lightning_rlhf.errors import UserError
from lightning_rlhf.typechecks import annotations, fits, in_words
from lightning_rlhf.user_code import import_module

Entry = TypeVar("Entry")


def registered(table: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """Looks up an entry of a table.

    Args:
        table: The entries by name.
        name: Name of the entry, or `module:name` for an entry that importing `module` adds to the table.
        setting: The setting that holds `name`, for messages.

    Raises:
        UserError: If the module cannot be found, or the table has no such entry.
    """
    module, _, short = name.rpartition(":")
    if module:
        import_module(module, f"{setting}={name}")
    if short not in table:
        raise UserError(f"{setting}={name}: expected one of {', '.join(table)}")
    return table[short]


def arguments(
    function: Callable[..., object], shared: Mapping[str, object], options: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The keyword arguments for a function: the shared settings that it declares, and its own options."""
    declared = _settings(function)
    return {name: value for name, value in shared.items() if name in declared} | dict(options or {})


def option_problems(
    name: str,
    function: Callable[..., object],
    shared: Mapping[str, object],
    options: Mapping[str, object],
    example: object,
) -> Iterator[str]:
    """Compares options with the names and types that a function declares, and calls the function to check the values.

    Args:
        name: The name that the user gave for the function.
        function: The function. It takes one positional argument, and raises `ValueError` for an impossible value.
        shared: The settings that have their own key in the configuration.
        options: The settings that the user gave below `options`.
        example: A positional argument to call the function with, so that a mistake shows before models are loaded.

    Yields:
        One line for each option that is unknown, has the wrong type, is missing or is impossible.
    """
    problems = list(_mismatches(name, function, shared, options))
    yield from problems
    if not problems:
        try:
            function(example, **arguments(function, shared, options))
        except ValueError as error:
            yield f"{name}: {error}"


def _mismatches(
    name: str, function: Callable[..., object], shared: Collection[str], options: Mapping[str, object]
) -> Iterator[str]:
    hints = annotations(function)
    own = {key: parameter for key, parameter in _settings(function).items() if key not in shared}
    for key, value in options.items():
        if key in shared:
            yield f"options.{key}={value}: {key} is not an option but a setting of its own; set {key}={value}"
        elif key not in own:
            close = difflib.get_close_matches(key, own, n=1)
            guess = f"; did you mean options.{close[0]}?" if close else ""
            yield f"options.{key}={value}: the options of {name} are {', '.join(own) or 'none'}{guess}"
        elif not fits(value, hints.get(key, object)):
            yield f"options.{key}={value}: {name} expects {in_words(hints[key])}"
    for key, parameter in own.items():
        if parameter.default is parameter.empty and key not in options:
            yield f"options.{key} is not set: {name} needs it"


def _settings(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
