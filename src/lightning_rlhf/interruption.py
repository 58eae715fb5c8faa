"""The signals that stop a process: Ctrl-C (SIGINT), SIGTERM of a scheduler, and SIGHUP of a closed terminal."""

import os
import signal
import stat
import sys
import time
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDOUT, _STDERR = 1, 2
_noted: list[int] = []


class Interrupted(KeyboardInterrupt):
    """A signal has told this process to stop.

    It is a KeyboardInterrupt, so that libraries clean up after every signal as they do after Ctrl-C.
    """

    def __init__(self, number: int, message: str = "interrupted") -> None:
        """Stores the signal and the message for the user."""
        super().__init__(message)
        self.number = number


def signal_of(error: KeyboardInterrupt) -> int:
    """The number of the signal that stopped the process. A shell expects the exit code 128 plus this number."""
    return error.number if isinstance(error, Interrupted) else signal.SIGINT


def interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Finds the interruption that led to an error.

    A signal may arrive within any library. Where it leaves an object half-made, the library's own cleaning up can fail,
    and that error then takes the place of the interruption, as in OmegaConf.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler that raises `Interrupted`."""
    if number == signal.SIGHUP:
        leave_terminal()
    raise Interrupted(number)


def repeat_swallowed() -> None:
    """Makes an interruption that Python cannot raise come again, instead of printing a traceback.

    A signal may arrive while an object is being destroyed. Python then drops what the handler raises.
    """
    otherwise = sys.unraisablehook

    def again(number: int) -> None:
        time.sleep(0.01)
        os.kill(os.getpid(), number)

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            # Later and from another thread, because this one would handle the signal within this function.
            start_new_thread(again, (unraisable.exc_value.number,))
        else:
            otherwise(unraisable)

    sys.unraisablehook = hook


def note(number: int, frame: FrameType | None) -> None:
    """A signal handler that only stores the signal, for `noted`."""
    _noted.append(number)


def noted() -> int:
    """The last signal that `note` has stored; 0 if there is none."""
    return _noted[-1] if _noted else 0


def handle(numbers: tuple[int, ...], handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handles signals, except those that this process ignores, as it ignores SIGHUP under nohup.

    Args:
        numbers: The signals.
        handler: The handler.

    Returns:
        The previous handlers by signal.
    """
    heard = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in heard}


def say_from_handler(message: str) -> None:
    """Prints a line from a signal handler, which may have interrupted a call of `print` and so must not call it."""
    with suppress(OSError):
        os.write(_STDERR, f"\n{message}\n".encode())


def leave_terminal() -> None:
    """Discards what is printed from here on, if the terminal has been closed; printing there would be an error."""
    for descriptor in (_STDOUT, _STDERR):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
