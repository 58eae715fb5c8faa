"""Asks the reward about responses while others are still being sampled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

import torch

from lightning_rlhf.experience import Answers, Scores


class Judge:
    """Scores responses, in a thread of its own if no model takes part.

    The thread asks about one micro-batch after the other, in the order in which they are given, so a function sees the
    same calls as without the thread. At most all micro-batches of a rollout wait for it. A reward that contains models
    is asked when its scores are fetched, because its models would disturb the one that samples.

    Example:
        >>> with Judge(roles.scores, beside=True) as judge:
        ...     fetch = [judge(answers) for answers in parts]
        ...     scores = [each() for each in fetch]
    """

    def __init__(self, score: Callable[[Answers], Scores], *, beside: bool) -> None:
        """Prepares the thread, which starts with the first question.

        Args:
            score: The reward source.
            beside: Whether to use the thread.
        """
        self.score, self.beside = score, beside
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward") if beside else None

    def __enter__(self) -> Self:
        """Returns the judge."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for the question that the thread is at, and drops those that have not begun."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __call__(self, answers: Answers) -> Callable[[], Scores]:
        """Asks about responses.

        Returns:
            A function that waits for the scores, and raises the error if there was one.
        """
        if self._thread is None:
            return partial(self.score, answers)
        return self._thread.submit(_without_gradients, self.score, answers).result


def _without_gradients(score: Callable[[Answers], Scores], answers: Answers) -> Scores:
    """Scores as in a rollout: whether gradients are recorded, and the current GPU, belong to a thread."""
    device = answers.sequences.input_ids.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.no_grad():
        return score(answers)
