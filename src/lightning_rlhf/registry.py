"""Functions that a setting names, such as advantage estimators and policy losses, and the settings that each declares.

A decorator enters a function into its table. The keyword-only parameters of the function are its settings. Those that
several functions share have a key of their own in the configuration; all others are keys below `options`.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from lightning_rlhf.errors import UserError
from lightning_rlhf.typechecks import annotations, fits, in_words

Entry = TypeVar("Entry")


def registered(table: Mapping[str, Entry], name: str, setting: str) -> Entry:
    """Finds an entry.

    Args:
        table: The entries by name.
        name: Name of the entry, or `module:name` for one that is entered when that module is imported.
        setting: What messages call `name`.

    Raises:
        UserError: If the module cannot be found, or there is no such entry.
    """
    module, _, short = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"{setting}={name}: cannot import {error.name!r}; is it installed, or on PYTHONPATH?"
            ) from error
    if short not in table:
        raise UserError(f"{setting}={name}: expected one of {', '.join(table)}")
    return table[short]


def arguments(
    function: Callable[..., Any], shared: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keyword arguments for a function: those of the shared settings that it declares, and its options."""
    declared = _settings(function)
    return {name: value for name, value in shared.items() if name in declared} | dict(options or {})


def option_problems(
    name: str, function: Callable[..., Any], shared: Mapping[str, Any], options: Mapping[str, Any], example: Any
) -> Iterator[str]:
    """Compares options with what a function declares, by name and type, and asks the function about their values.

    Args:
        name: What the user calls the function.
        function: It takes one positional argument, and raises a `ValueError` for a value that is impossible.
        shared: The settings that have a key of their own.
        options: What the user set below `options`.
        example: A positional argument to try the function on: now, and not when nets are loaded.

    Yields:
        One line for each option that is unknown, has the wrong type, is missing or impossible.
    """
    problems = list(_mismatches(name, function, shared, options))
    yield from problems
    if not problems:
        try:
            function(example, **arguments(function, shared, options))
        except ValueError as error:
            yield f"{name}: {error}"


def _mismatches(
    name: str, function: Callable[..., Any], shared: Collection[str], options: Mapping[str, Any]
) -> Iterator[str]:
    hints = annotations(function)
    own = {key: parameter for key, parameter in _settings(function).items() if key not in shared}
    for key, value in options.items():
        if key in shared:
            yield f"options.{key}={value}: {key} has a place of its own; set {key}={value}"
        elif key not in own:
            close = difflib.get_close_matches(key, own, n=1)
            guess = f"; did you mean options.{close[0]}?" if close else ""
            yield f"options.{key}={value}: the options of {name} are {', '.join(own) or 'none'}{guess}"
        elif not fits(value, hints.get(key, Any)):
            yield f"options.{key}={value}: {name} expects {in_words(hints[key])}"
    for key, parameter in own.items():
        if parameter.default is parameter.empty and key not in options:
            yield f"options.{key} is not set: {name} needs it"


def _settings(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
