"""Checks whether a value from a configuration fits the annotation of a parameter, and puts annotations into words."""

import inspect
import types
import typing
from collections.abc import Callable
from math import isnan
from typing import Any, Literal, Union


def annotations(target: Callable[..., object]) -> dict[str, object]:
    """The annotations of the parameters of a function, or of the `__init__` of a class, by name.

    A name that is imported for type checkers only stands for any value.
    """
    function = target.__init__ if inspect.isclass(target) else target
    unknown: dict[str, object] = {}
    while True:
        try:
            return typing.get_type_hints(function, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = Any


def fits(value: object, hint: object) -> bool:
    """Whether a plain value fits a parameter with this annotation. An annotation that is not handled fits any value."""
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
        # NaN is not a number.
        return isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
    return True


def in_words(hint: object) -> str:
    """Describes an annotation in words for the user."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(option) for option in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(hint))
    names: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(hint, str(hint))
