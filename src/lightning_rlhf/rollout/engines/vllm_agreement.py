"""Errors of one process that stop all processes, which would otherwise wait for it in the next exchange."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.errors import UserError

T = TypeVar("T")


def agree(problem: UserError | None) -> None:
    """Raises the error of this process, or that of another one; all processes call this together.

    Args:
        problem: The error of this process, if it has one.

    Raises:
        UserError: If any process has one.
    """
    others = gather_objects([None if problem is None else str(problem)])
    if problem is not None:
        raise problem
    if found := next((text for text in others if text is not None), None):
        raise UserError(found)


def together(act: Callable[[], T]) -> T:
    """Does something on this process, and stops all processes if it fails on any; all call this together.

    Raises:
        UserError: If it fails on any process.
    """
    problem = None
    try:
        done = act()
    except UserError as error:
        problem = error
    agree(problem)
    return done


def agreed(items: Iterable[T]) -> Iterator[T]:
    """Yields what this process makes, and stops all processes at the end if it fails on any.

    All processes read this to the end together; each may have a different number of items.

    Raises:
        UserError: If it fails on any process.
    """
    problem = None
    try:
        yield from items
    except UserError as error:
        problem = error
    agree(problem)
