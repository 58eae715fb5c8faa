"""Shows how far a job has come that asks a chat model, and what it has cost."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_rlhf.chat_models.budget import Budget
from lightning_rlhf.console import TimedLines, console


class CostProgress:
    """A bar on a terminal, and elsewhere a line from time to time."""

    def __init__(self, what: str, done: int, total: int, budget: Budget) -> None:
        """Stores what is shown.

        Args:
            what: The things that are counted, such as "conversations".
            done: Number of those that there are already.
            total: Number of all.
            budget: Knows what requests have used.
        """
        self.what, self.done, self.total, self.budget = what, done, total, budget
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[cost]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, completed=done, total=total, cost=cost(budget))
        self._lines = TimedLines()

    def __enter__(self) -> Self:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()

    def advance(self) -> None:
        """Counts one more."""
        self.done += 1
        self._bar.update(self._task, completed=self.done, cost=cost(self.budget))
        self._lines.say(f"{self.what}: {self.done:,} of {self.total:,}, {cost(self.budget)}")


def cost(budget: Budget) -> str:
    """Says what requests have used, such as `12,345 tokens, $0.0123`."""
    tokens = f"{budget.used.tokens:,} tokens"
    return tokens if budget.usd is None else f"{tokens}, ${budget.usd:.4f}"
