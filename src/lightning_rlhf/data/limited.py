"""Bounds the time and the memory of code that comes with data, such as a chat template, which may loop for ever."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lightning_rlhf.errors import UserError

MOST_MEMORY = 4 * 2**30
"""Bytes that the code may request beside what the process has."""


@contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """Context in which code has a limited time, in the main thread, and a limited memory, on Linux.

    Args:
        seconds: The time.
        what: What is called, for messages.

    Raises:
        UserError: If the code takes longer, or more memory.
    """
    try:
        with _memory(), _time(seconds, what):
            yield
    except MemoryError as error:
        raise UserError(
            f"{what} takes more than {MOST_MEMORY / 2**30:g} GiB of memory: it grows without end"
        ) from error


@contextmanager
def _time(seconds: float, what: str) -> Iterator[None]:
    # Python calls handlers of signals in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise UserError(f"{what} takes longer than {seconds:g} seconds: it loops without end")

    before = signal.signal(signal.SIGALRM, end)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _memory() -> Iterator[None]:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(statm.read_text().split()[0]) * resource.getpagesize() + MOST_MEMORY
    limits = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
