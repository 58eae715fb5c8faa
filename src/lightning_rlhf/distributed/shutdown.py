"""Ends one of several processes before the threads of its process groups can abort it.

A thread of gloo holds the tensors of an exchange a moment longer than the caller that waits for the result, and needs
Python's global lock to release them. When the interpreter finalizes, Python before 3.14 ends every thread that waits
for that lock by unwinding its stack (`PyThread_exit_thread`). The unwinding reaches a destructor of C++, and the
process dies with "terminate called without an active exception" and exit code -6, although all its work is done.
Source: pytorch/pytorch#190489, and a backtrace of such a process.
"""

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_PAUSE_SECONDS = 0.2


def close_process_groups() -> None:
    """Destroys the process groups, if there are any; this package registers it for the end of the interpreter.

    Destroying a group waits for its threads, unless a cache still holds the group: the caches of DTensor and of the
    libraries behind some strategies cannot be emptied. A thread of such a group gets the lock while this thread sleeps.
    """
    dist = _initialized()
    if dist is None:
        return
    # After an error, another rank may never join an exchange that this rank has begun.
    if getattr(sys, "last_value", None) is None:
        dist.destroy_process_group()
    time.sleep(_PAUSE_SECONDS)


@contextmanager
def without_finalization() -> Iterator[None]:
    """Context for the program of a process, which then exits without finalizing the interpreter if it has other ranks.

    Everything else that happens at an exit happens before: threads are joined, and functions that were registered with
    `atexit` in the meantime are called. An exchange that never ends because another rank was killed cannot abort the
    process either.
    """
    status = 0

    def leave() -> None:
        if _initialized() is None:
            return
        if status == 0:
            close_process_groups()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # The function that is registered first is called last.
    atexit.register(leave)
    try:
        yield
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException:
        status = 1
        raise


def _initialized() -> ModuleType | None:
    """Returns torch.distributed if this process is one of several, and None otherwise; does not import torch."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
