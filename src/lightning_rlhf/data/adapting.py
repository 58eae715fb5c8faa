"""Says how settings were adapted to what there is, such as a minibatch to fewer rows: one warning names all changes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def adapted(note: str) -> None:
    """Notes that a setting was adapted. Within `collected` the note is kept, otherwise it is logged as a warning."""
    # Imports torch, which checks before a run do without.
    from lightning_rlhf.distributed.collectives import is_first_process

    notes = _COLLECTED.get()
    if notes is not None:
        notes.append(note)
    elif is_first_process():
        log.warning("%s", note)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Context in which notes are kept in the list that it gives, instead of being logged."""
    notes: list[str] = []
    token = _COLLECTED.set(notes)
    try:
        yield notes
    finally:
        _COLLECTED.reset(token)
