"""Makes items in the background, some ahead of what has been answered, so that nobody waits."""

import logging
import threading
from collections.abc import Callable, Iterator

from lightning_rlhf.errors import UserError
from lightning_rlhf.web.label.items import Item

log = logging.getLogger(__name__)

# Time between two looks at how many items are open; it takes no part in what a person waits for.
_LOOK_SECONDS = 0.2


class Stopped(Exception):
    """The server stops, so no more items are needed."""


class Supply:
    """A thread that takes items from a generator whenever few are open.

    Attributes:
        failure: Why no more items can be made; empty while they can.
        doing: What the thread does, for people who wait.
    """

    def __init__(self, doing: str = "") -> None:
        """Prepares a supply of nothing.

        Args:
            doing: What a person reads who waits for an item.
        """
        self.failure, self.doing = "", doing
        self.stop = threading.Event()
        self._remaining: Callable[[], int] = lambda: 0
        self._thread: threading.Thread | None = None

    def to_come(self) -> int:
        """Estimates the number of items that are still to be made."""
        return 0 if self.failure else self._remaining()

    def start(
        self,
        items: Iterator[Item],
        add: Callable[[Item], None],
        is_full: Callable[[], bool],
        remaining: Callable[[], int],
    ) -> None:
        """Starts the thread.

        Args:
            items: Makes an item whenever it is asked for the next one. It raises `Stopped` when `stop` is set.
            add: Receives each item.
            is_full: Whether enough items are open.
            remaining: Number of items that are still to be made.
        """

        def work() -> None:
            try:
                while not self.stop.is_set():
                    if is_full():
                        self.stop.wait(_LOOK_SECONDS)
                    elif (item := next(items, None)) is None:
                        return
                    else:
                        add(item)
            except Stopped:
                return
            except Exception as error:
                # Whoever labels goes on with the items that there are.
                known = isinstance(error, UserError)
                self.failure = str(error) if known else f"{type(error).__name__}: {error}"
                log.error("no more answers can be sampled: %s", self.failure, exc_info=not known)

        self._remaining = remaining
        self._thread = threading.Thread(target=work, name="answers", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops the thread and waits for it."""
        self.stop.set()
        if self._thread is not None:
            self._thread.join()
