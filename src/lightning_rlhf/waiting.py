"""Waits for code that may hang: no longer than allowed, and not in silence."""

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import TypeVar

from lightning_rlhf.console import complain

Result = TypeVar("Result")

LONGEST = 7 * 24 * 3600.0
"""The longest limit that a setting may give, in seconds: a week."""
FIRST_LINE = 30.0
"""Seconds before the first line about something that is waited for."""


class TimeLimit(TimeoutError):
    """A function has not returned within the time that it was given."""


def within(seconds: float | None, call: Callable[[], Result]) -> Result:
    """Calls a function, and stops waiting for it after some seconds.

    Nothing can stop code that does not return. It is left behind in a thread that does not keep the program from
    ending.

    Args:
        seconds: The limit; None calls the function in this thread, for as long as it takes.
        call: The function.

    Raises:
        TimeLimit: If the function has not returned by then.
    """
    if seconds is None:
        return call()
    done: Queue[tuple[Result | None, BaseException | None]] = Queue()

    def work() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # it belongs to the caller
            done.put((None, error))

    thread = threading.Thread(target=_as_in_this_thread(work), name="limited", daemon=True)
    thread.start()
    thread.join(seconds)
    if done.empty():
        raise TimeLimit(f"timed out after {seconds:g} s")
    result, error = done.get()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _as_in_this_thread(work: Callable[[], None]) -> Callable[[], None]:
    """Gives another thread what belongs to this one: context variables, and what torch keeps for each thread."""
    context, torch = contextvars.copy_context(), sys.modules.get("torch")
    if torch is None:
        return lambda: context.run(work)
    gradients = torch.is_grad_enabled()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def prepared() -> None:
        if gpu is not None:
            torch.cuda.set_device(gpu)
        with torch.set_grad_enabled(gradients):
            context.run(work)

    return prepared


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Context of work that may hang: says what is waited for after half a minute, and again after twice that time.

    Every process says so, because each may hang alone.

    Args:
        what: What is waited for.
    """
    ended = threading.Event()

    def watch() -> None:
        waited, pause = 0.0, FIRST_LINE
        while not ended.wait(pause):
            waited += pause
            complain(f"waiting for {what}, for {waited:g} s now", style="yellow")
            pause = waited

    threading.Thread(target=watch, name="announcing", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
