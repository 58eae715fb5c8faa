"""Hooks for strategies that take part in building models: how weights are read, and how they are changed afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class _Loading(NamedTuple):
    reading: Callable[[], AbstractContextManager[None]]
    writing: Callable[[Sequence[Tensor]], AbstractContextManager[None]]
    divided: Callable[[Tensor], bool]


_ALONE = _Loading(nullcontext, lambda parameters: nullcontext(), lambda parameter: False)
_LOADING: ContextVar[_Loading] = ContextVar("loading", default=_ALONE)


def loading() -> AbstractContextManager[None]:
    """Returns the context for a call of `from_pretrained`, in which a strategy may divide weights as they are read."""
    return _LOADING.get().reading()


def writable(*parameters: Tensor) -> AbstractContextManager[None]:
    """Returns a context in which weights are whole, even if they have been divided already.

    What is written to them in it stays. It must be the same on every rank.
    """
    return _LOADING.get().writing(parameters)


def divided_in_loading(parameter: Tensor) -> bool:
    """Whether a weight was divided as it was read; the strategy then keeps fp32 copies of what it trains."""
    return _LOADING.get().divided(parameter)


@contextmanager
def loading_by(
    reading: Callable[[], AbstractContextManager[None]],
    writing: Callable[[Sequence[Tensor]], AbstractContextManager[None]],
    divided: Callable[[Tensor], bool],
) -> Iterator[None]:
    """Makes this module's functions call these; a strategy does so while the module builds its models.

    Args:
        reading: Gives the context of `loading`.
        writing: Gives the context of `writable`.
        divided: Answers `divided_in_loading`.
    """
    token = _LOADING.set(_Loading(reading, writing, divided))
    try:
        yield
    finally:
        _LOADING.reset(token)
