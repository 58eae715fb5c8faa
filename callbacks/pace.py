"""How long a run will take."""

import math
import time
from datetime import timedelta


class Pace:
    """Extrapolates the time that is left from the part of a run that this process has done."""

    def __init__(self, begun: int, total: float) -> None:
        """Starts the clock.

        Args:
            begun: The steps, or epochs, that were done before; more than 0 if the run was resumed.
            total: The number at which the run ends; infinite or negative if the run has no such end.
        """
        self.begun, self.total = begun, total
        self.start = time.monotonic()
        self.end: float | None = None

    def measure(self, done: int) -> None:
        """Extrapolates anew, when a step or an epoch has just ended.

        Args:
            done: The number of steps or epochs that are done.
        """
        if done > self.begun and 0 < self.total < math.inf:
            now = time.monotonic()
            self.end = now + (now - self.start) / (done - self.begun) * max(self.total - done, 0)

    def time_left(self) -> str:
        """Returns the time that is left, such as `0:12:31`; an empty text before it can be known."""
        return "" if self.end is None else str(timedelta(seconds=round(max(self.end - time.monotonic(), 0))))
