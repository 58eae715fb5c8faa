"""Whether a value from a configuration fits a parameter's annotation, and what to tell the user if it does not."""

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union


def annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's parameters, or of a class's `__init__`, by name.

    A name that is imported for type checkers only stands for any value.
    """
    function = target.__init__ if inspect.isclass(target) else target
    unknown: dict[str, Any] = {}
    while True:
        try:
            return typing.get_type_hints(function, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for a parameter with this annotation; unknown annotations accept anything."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is type(None):
        return value is None
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def in_words(hint: Any) -> str:
    """An annotation in words."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(option) for option in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(hint))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
