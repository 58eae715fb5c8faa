"""Ends the ranks of a machine together with the process that has launched them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_rlhf.console import complain
from lightning_rlhf.distributed.lack_of_memory import killed
from lightning_rlhf.interruption import STOPPING, Interrupted, handle, interrupt, note, noted

_CHECK_SECONDS = 2
# How long a rank may take to end after a signal, where nothing is left to save.
_GRACE_SECONDS = 5
# What a shell adds to the number of the signal that has ended a process.
_SIGNALLED = 128
_waiting = threading.Event()


def end_with_launcher() -> None:
    """Watches the launcher in the background, if this process was started by one as a rank of several.

    Otherwise this process would wait for other ranks until a timeout, or forever. Lightning watches the ranks that it
    has started, and torchrun and SLURM watch theirs. But if Lightning's first process is killed, no process is left
    that would end the others.
    """
    if "LOCAL_RANK" in os.environ:
        threading.Thread(target=_watch, args=[os.getppid()], daemon=True).start()
    if not (launched_by_lightning() or first_rank()):
        end_after_signals()


def end_after_signals() -> None:
    """Ends this process soon after a signal that stops it at once, wherever its main thread is.

    Python calls a signal handler only between two instructions of the main thread, and an exchange with another rank,
    which may have ended already, is one instruction. The launcher would wait half a minute, and then kill.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_after, args=[reader], daemon=True).start()


def launched_by_lightning() -> bool:
    """Whether the first process of this machine has started this one, and will end it."""
    external = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" in os.environ
    return not external and os.environ.get("LOCAL_RANK", "0") != "0"


def started_by_slurm() -> bool:
    """Whether srun has started this process as one of several. An interactive job does not count, as for Lightning."""
    several = int(os.environ.get("SLURM_NTASKS", 1)) > 1
    return several and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def first_rank() -> bool:
    """Whether this is the first of all processes, as far as it is known before they are connected."""
    ranks = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def put_off_signals() -> None:
    """Makes this process only note signals until `obey_signals`."""
    handle(STOPPING, note)


def obey_signals(numbers: tuple[int, ...] = STOPPING) -> None:
    """Makes signals stop this process at once, by `Interrupted`.

    A rank that Lightning has started only notes them, because its launcher hears them too and ends it.

    Raises:
        Interrupted: If a signal that was put off has come already.
    """
    if launched_by_lightning():
        handle(numbers, note)
        return
    handle(numbers, interrupt)
    if noted():
        raise Interrupted(noted())


def wait_for_launcher() -> None:
    """Waits for the launcher to end this process; the process calls it after an interruption instead of exiting.

    Lightning kills its first process as soon as another one has ended with an error. The first process may still be
    writing what the run leaves behind.
    """
    _waiting.set()
    while True:
        time.sleep(_CHECK_SECONDS)


def end_ranks() -> None:
    """Kills the ranks that Lightning has started from this process, if there are any; call it after an interruption.

    Lightning does so only in the first stage of a run, and its thread that watches the ranks would then kill this
    process too. The thread ends when it has no ranks to watch, and there is no public way to end it.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            ranks = thread._child_processes  # type: ignore[attr-defined]
            while ranks:
                ranks.pop().kill()


def tell_of_killed_ranks() -> None:
    """Makes this process say that a rank was killed which Lightning has started from it.

    Lightning kills this process as soon as it notices, and says no more than the code with which the rank has ended.
    There is no public way to hear of it before.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._terminate_all = partial(_tell_and, thread._terminate_all, thread)  # type: ignore[attr-defined]


def _tell_and(end: Callable[[], None], observer: Any) -> None:
    for rank, process in enumerate(observer._child_processes, 1):
        if process.returncode and process.returncode < 0:
            complain(f"error: rank {rank} was ended by signal {-process.returncode}: {killed()}")
    end()


def _end_after(reader: int) -> None:
    while True:
        number = os.read(reader, 1)[0]
        if number in STOPPING and signal.getsignal(number) is interrupt:
            time.sleep(_GRACE_SECONDS)
            os._exit(_SIGNALLED + number)


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        if _waiting.wait(_CHECK_SECONDS):
            time.sleep(0.1)
    if not _waiting.is_set():
        rank = os.environ.get("RANK", os.environ["LOCAL_RANK"])
        print(f"error: the process that started rank {rank} has ended, so it ends too", file=sys.stderr, flush=True)
    # sys.exit would end only this thread, and the main thread may be in a collective that never returns.
    os._exit(1)
