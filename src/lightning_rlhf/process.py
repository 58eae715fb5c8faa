"""Settings of the process that computes, which libraries read once, before they do anything."""

import ctypes
import os
import platform

_SPINS = 5000
"""How often a thread of GNU's OpenMP looks for work before it sleeps."""
# Names of malloc.h, and their values.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT, _AT_A_TIME = 2**30, 2**26
"""Bytes of freed memory behind the last address in use that a process keeps at most, and that it requests at least."""


def prepare_process() -> None:
    """Chooses how threads wait for work and how memory is reused, unless the environment says so; call it before torch.

    Idle threads spin for a moment, and then sleep. Threads that spin for long made rollouts 16 times slower next to
    another busy process. Threads that sleep at once made rollouts 1.5 times slower on an idle machine, because an
    operation of a small model takes microseconds. GNU's OpenMP, which torch ships on Linux, can do both; other runtimes
    let their threads sleep at once.

    glibc requests each large tensor from the kernel and gives it back at once, and the kernel writes zeros into every
    page of it. An update on a CPU spends up to 15% of its time on that. Here glibc keeps freed memory to use it again,
    until `return_freed_memory` returns it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
    if _has_glibc() and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_TOP_PAD, _AT_A_TIME)):
            mallopt(setting, value)


def return_freed_memory() -> None:
    """Returns the memory that is not in use to the system, such as that of weights that have moved to a GPU."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
