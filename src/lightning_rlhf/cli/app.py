"""Runs a Hydra app the way users of a command line expect: a mistake is one message and exit code 2."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from lightning_rlhf.assembly.library_messages import silence_loggers
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.distributed.shutdown import without_finalization

_INTERRUPTED = 130
# What gloo, NCCL and PyTorch's store say of it.
_CONNECTION_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exit",
    "remote server shutdown",
)
# Whether the user asked Hydra for tracebacks, before we did.
_TRACEBACK = "LIGHTNING_RLHF_TRACEBACK"


def run_app(app: Callable[[], Any]) -> None:
    """Calls a function that `hydra.main` has wrapped, and reports errors in composing the configuration."""
    # Idle threads sleep instead of spinning: beside another busy process, spinning ones made training seven times
    # slower. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Otherwise Hydra prints its own shortened traceback and exits with 1.
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    silence_loggers()
    with without_finalization(), exit_codes():
        app()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns a mistake of the user into one message and exit code 2, and Ctrl-C into one line and exit code 130.

    A rank whose partner has died ends with one message and code 1: its own traceback would hide the other's.
    With HYDRA_FULL_ERROR=1 in the environment, tracebacks are shown.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        sys.exit(_INTERRUPTED)
    except Exception as error:
        message, lost = user_message(error), _lost_process(error)
        if not (message or lost) or os.environ.get(_TRACEBACK) == "1":
            raise
        _say(f"error: {message or lost}")
        sys.exit(2 if message else 1)


def _lost_process(error: BaseException) -> str | None:
    """What to say where an exchange failed since a process at its other end is gone; None if that is not so."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in _CONNECTION_LOST):
        return None
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return (
        f"rank {rank} exchanges with another process, which has ended, so it ends too: the other one says why, unless "
        f"it was killed, for want of memory perhaps ({text.splitlines()[0]})"
    )


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(message, style="bold red", highlight=False, markup=False)
