"""Ends a process whose launcher has ended; otherwise it would wait for other ranks until a timeout, or forever."""

import os
import sys
import threading
import time

_CHECK_SECONDS = 2


def end_with_launcher() -> None:
    """Watches the launcher in the background, if this process was started by one as a rank of several.

    Lightning watches the ranks that it has started, and torchrun and SLURM watch theirs. But if Lightning's first
    process is killed, no process is left that would end the others.
    """
    if "LOCAL_RANK" in os.environ:
        threading.Thread(target=_watch, args=[os.getppid()], daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_CHECK_SECONDS)
    rank = os.environ.get("RANK", os.environ["LOCAL_RANK"])
    print(f"error: the process that started rank {rank} has ended, so it ends too", file=sys.stderr, flush=True)
    # sys.exit would end only this thread, and the main thread may be in a collective that never returns.
    os._exit(1)
