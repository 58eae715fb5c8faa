"""How models are built where the strategy has a say: how weights are read, and how read weights are written to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class _Loading(NamedTuple):
    reading: Callable[[], AbstractContextManager[None]]
    writing: Callable[[Sequence[Tensor]], AbstractContextManager[None]]


_ALONE = _Loading(nullcontext, lambda parameters: nullcontext())
_LOADING: ContextVar[_Loading] = ContextVar("loading", default=_ALONE)


def loading() -> AbstractContextManager[None]:
    """The context in which `from_pretrained` is called; weights may be divided among the processes as they are read."""
    return _LOADING.get().reading()


def writable(*parameters: Tensor) -> AbstractContextManager[None]:
    """The context in which weights that may be divided already are whole.

    What is written to them in it must be the same on every rank, and stays.
    """
    return _LOADING.get().writing(parameters)


@contextmanager
def loading_by(
    reading: Callable[[], AbstractContextManager[None]],
    writing: Callable[[Sequence[Tensor]], AbstractContextManager[None]],
) -> Iterator[None]:
    """Makes `loading` and `writable` enter these contexts; a strategy does so while the module builds its models."""
    token = _LOADING.set(_Loading(reading, writing))
    try:
        yield
    finally:
        _LOADING.reset(token)
