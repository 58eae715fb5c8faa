"""Which failures of a chat model are worth another attempt, and when it is made."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from lightning_rlhf.chat_models.budget import BudgetSpent
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from tenacity import Retrying

LONGEST_WAIT = 600.0
"""Seconds; a server that asks for a longer pause is asked again after this one."""
_PASSING = (408, 409, 425, 429)


class Stopped(Exception):
    """The program ends, so no further attempt is made."""


class BrokenReply(Exception):
    """A reply ended before the model had finished it."""


def retrying(
    retries: int, backoff: float, sleep: Callable[[float], None], tell: Callable[[BaseException], None]
) -> "Retrying":
    """Makes the loop of attempts. The pauses double, and a random part keeps clients from coming back together.

    Args:
        retries: Number of attempts after the first.
        backoff: Seconds before the second attempt, and the largest random part of each pause.
        sleep: Waits for some seconds.
        tell: Gets each failure that is followed by another attempt.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

    doubling = wait_exponential_jitter(multiplier=backoff, max=60, jitter=backoff)

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = retry_after(error)
        return doubling(state) if asked is None else min(asked, LONGEST_WAIT) + random.uniform(0, backoff)

    def failed(state: RetryCallState) -> None:
        if state.outcome and (error := state.outcome.exception()):
            tell(error)

    return Retrying(
        stop=stop_after_attempt(retries + 1),
        wait=pause,
        retry=retry_if_exception(lambda error: not is_final(error)),
        sleep=sleep,
        before_sleep=failed,
        reraise=True,
    )


def is_final(error: BaseException) -> bool:
    """Checks whether another attempt would fail in the same way.

    The errors of the providers have no common class, but those that answer a request have its status. An error without
    a status is a lost connection, a time-out, or an answer that cannot be read, and all of these may pass. Only
    NotImplementedError will not: LangChain raises it if the class of a model lacks what was asked for.
    """
    if not isinstance(error, Exception) or isinstance(error, UserError | BudgetSpent | Stopped | NotImplementedError):
        return True
    status = _status(error)
    # OpenAI answers 429 also to those who have to pay first.
    unpaid = getattr(error, "code", None) == "insufficient_quota"
    return unpaid or (400 <= status < 500 and status not in _PASSING)


def retry_after(error: BaseException | None) -> float | None:
    """Returns how many seconds a server asks to wait (RFC 9110, section 10.2.3); None if it does not ask."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def described(error: BaseException) -> str:
    """Describes a failure; that of a connection says where the server should be, and what is wrong."""
    text = str(error) or type(error).__name__
    if not isinstance(error, Exception) or _status(error) or not error.__cause__:
        return text
    # The packages of the providers only say that there was an error.
    try:
        url = getattr(error, "request").url  # noqa: B009 (not all errors have a request)
    except (AttributeError, RuntimeError):
        return text
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{text.rstrip('.')} ({url}: {str(cause) or type(cause).__name__})"


def _status(error: Exception) -> int:
    """The HTTP status that an error reports; 0 if it reports none."""
    for source in (error, getattr(error, "response", None)):
        status = getattr(source, "status_code", None)
        if isinstance(status, int):
            return status
    return 0
