"""Asks the reward about responses while others are still being sampled."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore
from types import TracebackType
from typing import Self

import torch

from lightning_rlhf.experience import Answers, Scores

_WAITING = 4
"""Questions that may wait for each thread; whoever asks another one waits, too."""


class Judge:
    """Scores responses, in threads if no model takes part.

    One thread asks one question after the other, in the order in which they are given, so a function sees the same
    calls as without the thread. A source that waits for other machines may get several threads. A reward that contains
    models is asked when its scores are fetched, because its models would disturb the one that samples.

    Example:
        >>> with Judge(roles.scores, beside=True) as judge:
        ...     fetch = [judge(answers) for answers in parts]
        ...     scores = [each() for each in fetch]
    """

    def __init__(self, score: Callable[[Answers], Scores], *, beside: bool, calls: int = 1) -> None:
        """Prepares the threads, which start with the first questions.

        Args:
            score: The reward source.
            beside: Whether to use threads.
            calls: Number of threads.
        """
        self.score, self.beside = score, beside
        self._threads = ThreadPoolExecutor(max_workers=calls, thread_name_prefix="reward") if beside else None
        self._room = BoundedSemaphore((1 + _WAITING) * calls)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Returns the judge."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for the questions that threads are at, and drops those that have not begun."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __call__(self, answers: Answers) -> Callable[[], Scores]:
        """Asks about responses, after waiting until few enough questions are waiting.

        Returns:
            A function that waits for the scores, and raises the error if there was one.

        Raises:
            BaseException: The error of an earlier question, because sampling on would only delay it.
        """
        if self._threads is None:
            return partial(self.score, answers)
        self._room.acquire()
        if self._error is not None:
            raise self._error
        question = self._threads.submit(_without_gradients, self.score, answers)
        question.add_done_callback(self._ended)
        return question.result

    def _ended(self, question: Future[Scores]) -> None:
        if not question.cancelled():
            self._error = self._error or question.exception()
        self._room.release()


def _without_gradients(score: Callable[[Answers], Scores], answers: Answers) -> Scores:
    """Scores as in a rollout: whether gradients are recorded, and the current GPU, belong to a thread."""
    device = answers.sequences.input_ids.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.no_grad():
        return score(answers)
