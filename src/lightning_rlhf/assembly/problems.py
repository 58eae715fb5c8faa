"""Collects the mistakes of the user from several checks, so that one message names them all."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.errors import UserError


class Problems:
    """The mistakes that were found so far.

    Example:
        >>> problems = Problems()
        >>> with problems.collected():
        ...     check_roles(config.roles, record, config.model)
        >>> problems.report()
    """

    def __init__(self) -> None:
        """Starts without problems."""
        self.lines: list[str] = []
        self._first: Exception | None = None

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Context in which a mistake of the user ends the context and is kept. Any other error is raised."""
        try:
            yield
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            self._first = self._first or error
            self.add(message)

    def add(self, message: str) -> None:
        """Keeps a message, unless another check has found the same: the stages of a pipeline share many settings."""
        if message not in self.lines:
            self.lines.append(message)

    def report(self) -> None:
        """Raises all problems as one error, whose cause is the first error that was collected.

        Raises:
            UserError: If there are any.
        """
        if self.lines:
            raise UserError("\n".join(self.lines)) from self._first
