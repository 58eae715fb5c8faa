"""How nets come into being where the strategy has a say: reading weights, and writing to what was read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from torch import Tensor

_LOADING: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar("loading", default=nullcontext)


def loading() -> AbstractContextManager[None]:
    """In it `from_pretrained` is called; weights may be spread over the processes while they are read."""
    return _LOADING.get()()


@contextmanager
def loading_by(context: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """In it `loading` enters this context: a strategy says so while the module builds its nets."""
    token = _LOADING.set(context)
    try:
        yield
    finally:
        _LOADING.reset(token)


@contextmanager
def written(*parameters: Tensor) -> Iterator[None]:
    """In it weights that may be spread already are whole, and what is written to them, alike on every rank, stays."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield
