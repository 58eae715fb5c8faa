"""What requests to a chat model use and cost, and the limit at which they stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

from lightning_rlhf.errors import UserError

_MILLION = 1_000_000


class Usage(NamedTuple):
    """Tokens that were read and written."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: "Usage", times: int = 1) -> "Usage":
        """Adds another usage, as often as `times` says."""
        return Usage(self.input_tokens + times * other.input_tokens, self.output_tokens + times * other.output_tokens)


class Prices(NamedTuple):
    """What a million tokens cost, in US dollars."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """Computes what tokens cost, in US dollars, without discounts such as those for cached tokens."""
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / _MILLION


class BudgetSpent(Exception):
    """The next request would exceed the budget, so it was not sent."""


class Budget:
    """Counts what requests use, and refuses a request that would exceed a limit.

    What a request will use is not known before it is answered, so the most tokens that one has read so far, and the
    most that one has written, stand for each that is under way and for the next one. A limit can therefore be exceeded
    by as much as a request is larger than all before it, and by those that are sent before the first one is answered.
    Several threads may use it.

    Attributes:
        used: What has been used.
        prices: What tokens cost; None if that is not known.
    """

    def __init__(
        self, max_usd: float | None = None, max_tokens: int | None = None, prices: Prices | None = None
    ) -> None:
        """Stores the limits.

        Args:
            max_usd: The limit in US dollars; None for none.
            max_tokens: The limit of tokens, read and written; None for none.
            prices: What tokens cost.

        Raises:
            UserError: If a limit is not positive, or dollars are limited but no prices are known.
        """
        for name, limit in (("max_usd", max_usd), ("max_tokens", max_tokens)):
            if limit is not None and not limit > 0:
                raise UserError(f"{name}={limit}: must be positive; null sets no limit")
        if max_usd is not None and prices is None:
            raise UserError(
                f"max_usd={max_usd}: the prices of the model are not known; set its input_price and output_price, in "
                "US dollars per million tokens"
            )
        self.max_usd, self.max_tokens, self.prices = max_usd, max_tokens, prices
        self.used = Usage()
        self._largest, self._under_way, self._lock = Usage(), 0, Lock()

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.max_usd is not None or self.max_tokens is not None

    @property
    def usd(self) -> float | None:
        """What has been spent, in US dollars; None if no prices are known."""
        return None if self.prices is None else self.prices.of(self.used)

    def add(self, usage: Usage) -> None:
        """Counts what a request has used."""
        with self._lock:
            self.used = self.used.plus(usage)
            # Separately, since the request with the most tokens need not be the dearest.
            self._largest = Usage(*map(max, self._largest, usage))

    def restore(self, usage: Usage) -> None:
        """Counts what an earlier process has used."""
        with self._lock:
            self.used = self.used.plus(usage)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Context in which one request is made.

        Raises:
            BudgetSpent: If the request would exceed a limit.
        """
        with self._lock:
            self._check(self.used.plus(self._largest, self._under_way + 1))
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def _check(self, expected: Usage) -> None:
        # What was read earlier may have used the budget up, before there is a largest request.
        expected = max(expected, self.used.plus(Usage(1, 0)), key=lambda each: each.tokens)
        if self.max_tokens is not None and expected.tokens > self.max_tokens:
            raise BudgetSpent(f"max_tokens={self.max_tokens} would be exceeded by the next request")
        if self.max_usd is not None and self.prices is not None and self.prices.of(expected) > self.max_usd:
            raise BudgetSpent(f"max_usd={self.max_usd:g} would be exceeded by the next request")
