"""Named tuples and dicts of tensors, whose tensors are changed all alike."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor

T = TypeVar("T")


def combined(parts: Sequence[T], combine: Callable[[list[Tensor]], Tensor]) -> T:
    """Combines the tensors that are at the same place in nested named tuples and dicts."""
    return cast(T, _combined(parts, combine))


def rows_at(value: T, rows: list[int]) -> T:
    """Selects rows of each tensor in nested named tuples and dicts."""
    return combined([value], lambda tensors: tensors[0][rows])


def _combined(parts: Sequence[Any], combine: Callable[[list[Tensor]], Tensor]) -> object:
    first = parts[0]
    if any(part is None for part in parts):
        return None
    if isinstance(first, Tensor):
        return combine(list(parts))
    if isinstance(first, dict):
        return {name: _combined([part[name] for part in parts], combine) for name in first}
    return type(first)(*(_combined(places, combine) for places in zip(*parts, strict=True)))
