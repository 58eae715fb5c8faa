"""Calls a function now and then, also while the main thread is busy with a long rollout."""

import threading
import time
from collections.abc import Callable


class Heartbeat:
    """Calls a function in a thread of its own whenever some time has passed without `touch`."""

    def __init__(self, seconds: float, beat: Callable[[], None]) -> None:
        """Stores what to call.

        Args:
            seconds: The time without `touch` after which the function is called.
            beat: The function. It must not wait for another process or for a GPU.
        """
        self.seconds, self.beat = seconds, beat
        self.last = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self.touch()
        self.thread.start()

    def touch(self) -> None:
        """Notes that something was printed."""
        self.last = time.monotonic()

    def stop(self) -> None:
        """Ends the thread."""
        self.ended.set()

    def _run(self) -> None:
        while not self.ended.wait(max(self.last + self.seconds - time.monotonic(), 0.01)):
            if time.monotonic() - self.last >= self.seconds:
                self.beat()
                self.touch()
