"""Recognises that memory was lacking, and says what was planned.

A process that the system kills for lack of memory cannot say so itself. Another process that misses it can: Linux
counts such kills since the machine started (`oom_kill` in /proc/vmstat, see the kernel's `mm/oom_kill.c`).
"""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

_planned: list[str] = []
_kills_at_start: list[int] = []
# What the allocators of torch report, for a CPU and for a GPU.
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
_ALLOCATED = re.compile(r"tried to allocate (\d+) bytes")
_REMEDY = (
    "smaller micro-batches need less (max_tokens_per_micro_batch, rollout_micro_batch_size, or larger "
    "accumulate_grad_batches); lightning-rlhf plan says what fits"
)
_SIZES = (
    "if sizes are wrong that a configuration names, such as model.config or the config.json of a model, correct them"
)


def remember_plan(text: str) -> None:
    """Stores what the stage that runs is planned to need, such as `1.5 GiB of tensors on each device`."""
    _planned[:] = [text]


def count_kills_from_here() -> None:
    """Starts to count the processes that the system kills for lack of memory."""
    _kills_at_start[:] = kills()


def kills(root: Path = Path("/")) -> list[int]:
    """The number of processes that this machine has killed for lack of memory; none if it does not tell.

    Args:
        root: The root of the file system.
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", (root / "proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [int(found[1])] if found else []


def killed(root: Path = Path("/")) -> str:
    """Says why a process may have been killed, what was planned, and what to do."""
    now = kills(root)
    number = now[0] - _kills_at_start[0] if now and _kills_at_start else 0
    if number > 0:
        processes = "a process" if number == 1 else f"{number} processes"
        why = f"since this run began, the system has killed {processes} of this machine for lack of memory"
    else:
        why = "perhaps the system has killed it for lack of memory"
    return f"{why}; {_advice()}"


def ran_out(error: BaseException | None) -> str | None:
    """The message for an error that says that memory could not be allocated; None for any other error."""
    for each in _causes(error):
        if isinstance(each, MemoryError) or (isinstance(each, OSError) and each.errno == errno.ENOMEM):
            text = str(each)
        elif isinstance(each, RuntimeError) and _NO_MEMORY.search(str(each)):
            text = str(each).splitlines()[0]
        else:
            continue
        if (size := _ALLOCATED.search(text)) is not None:
            text = f"{int(size[1]):,} bytes at once"
        return f"the memory is not enough ({text or type(each).__name__}): {_advice()}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _advice() -> str:
    return f"{_planned[0]} was planned; {_REMEDY}" if _planned else f"{_REMEDY}; {_SIZES}"
