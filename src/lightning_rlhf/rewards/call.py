"""Calls a function of texts, and says for which response it fails, and in which of the user's lines."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning_rlhf.errors import UserError
from lightning_rlhf.rewards.check import as_score
from lightning_rlhf.user_code import told
from lightning_rlhf.waiting import TimeLimit, announced, within

_SECONDS = 2.0
"""Functions that take longer for a batch are not called again to find the response at which they fail."""
_ERRORS = (Exception, SystemExit)
"""What a function may raise. If it exits as a program does, this is an error too, and not the end of the run."""


@dataclass(frozen=True)
class Call:
    """A call of a function with a batch of prompts and responses, and with other columns of the data."""

    function: Callable[..., object]
    name: str
    prompts: Sequence[str]
    responses: Sequence[str]
    columns: Mapping[str, Sequence[object]]
    timeout: float | None = None
    """Seconds that the function may take; None for any time."""

    def __call__(self) -> object:
        """Calls the function.

        Raises:
            UserError: If the function raises an error, or takes too long. The message shows the response and the user's
                own frames.
        """
        start = time.perf_counter()
        try:
            return self._rows(0, len(self.responses))
        except UserError:
            raise
        except TimeLimit as error:
            raise UserError(
                f"{self.name} has not returned within timeout={self.timeout:g} s for a batch of {len(self.responses)} "
                "responses: make it faster, or reward.timeout larger"
            ) from error
        except _ERRORS as error:
            if self.takes_one_response():
                raise self.one_by_one() from error
            quick = time.perf_counter() - start < _SECONDS
            # A lost connection or a missing file does not depend on the response.
            number = self._first_failing() if quick and not isinstance(error, OSError) else None
            where = f"a batch of {len(self.responses)} responses" if number is None else self.response(number)
            raise UserError(f"{self.name} failed for {where}\n{told(error)}") from error

    def response(self, row: int) -> str:
        """Names a response by its number in the batch, and shows its beginning."""
        return f"response {row + 1} of {len(self.responses)}, {self.responses[row][:80]!r}"

    def takes_one_response(self) -> bool:
        """Tries whether the function scores one response, given as a text, instead of a batch."""
        try:
            first = {name: column[0] for name, column in self.columns.items()}
            found = self._ask(self.prompts[0], self.responses[0], first)
        except _ERRORS:
            return False
        return as_score(found.item() if hasattr(found, "item") else found) is not None

    def one_by_one(self) -> UserError:
        """The error for a function that takes one response instead of a batch."""
        short = self.name.rpartition(":")[2]
        return UserError(
            f"{self.name} takes one prompt and one response, but is given lists of all prompts and responses of a "
            "batch, and returns a list of scores; a function that calls it for each response does:\n"
            "    def score(prompts, responses):\n"
            f"        return [{short}(prompt, response) for prompt, response in zip(prompts, responses)]"
        )

    def _rows(self, start: int, stop: int) -> object:
        rows = slice(start, stop)
        columns = {name: column[rows] for name, column in self.columns.items()}
        return self._ask(self.prompts[rows], self.responses[rows], columns)

    def _ask(self, prompts: object, responses: object, columns: Mapping[str, object]) -> object:
        with announced(self.name):
            return within(self.timeout, lambda: self.function(prompts, responses, **columns))

    def _first_failing(self) -> int | None:
        """The first response at which the function fails, found by halving; None if no response alone makes it fail."""
        start, stop = 0, len(self.responses)
        while stop - start > 1:
            middle = (start + stop) // 2
            if self._fails(start, middle):
                stop = middle
            else:
                start = middle
        return start if self._fails(start, stop) else None

    def _fails(self, start: int, stop: int) -> bool:
        try:
            self._rows(start, stop)
        except _ERRORS:
            return True
        return False
