"""A progress bar for one phase of a run after the other, which counts even where there is no terminal to draw it on."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from lightning_rlhf.console import console

Cells = Sequence[tuple[str, str]]
"""Labels, which may be empty, and values; the most important ones come first."""


class PhaseBar:
    """Shows the name of a phase, how much of it is done, and numbers beside it, as many as the line has space for."""

    def __init__(self, cells: Callable[[], Cells]) -> None:
        """Stores where the numbers come from; the function is called whenever the bar is drawn."""
        self.cells = cells
        self.text = ""
        self.done = 0
        self.total: int | None = None
        self.progress: Progress | None = None
        self.task = TaskID(0)

    def title(self) -> str:
        """Returns the name of the phase and how much of it is done."""
        return self.text if self.total is None else f"{self.text} {self.done}/{self.total}"

    def phase(self, text: str, total: int | None, done: int = 0) -> None:
        """Begins a phase.

        Args:
            text: Its name.
            total: The number of its parts, if it is known.
            done: The number of parts that were done before, in a run that goes on within the phase.
        """
        self.text, self.total, self.done = text, total, done
        if not console.is_terminal:
            return
        if self.progress is None:
            bar_width = max(4, min(20, console.width // 6))
            columns = (
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width),
                MofNCompleteColumn(),
                _Numbers(self.cells, beside=bar_width),
            )
            self.progress = Progress(*columns, console=console, transient=True)
            self.progress.start()
        else:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(text, total=total, completed=done)

    def advance(self) -> None:
        """Counts a part."""
        self.done += 1
        if self.progress is not None:
            self.progress.advance(self.task)

    def close(self) -> None:
        """Removes the bar."""
        if self.progress is not None:
            self.progress.stop()
        self.progress = None


class _Numbers(ProgressColumn):
    """The numbers that fit on the line of the bar; the time of the phase comes first if its end is not known."""

    def __init__(self, cells: Callable[[], Cells], beside: int) -> None:
        super().__init__(Column(no_wrap=True))
        self.cells, self.beside = cells, beside

    def render(self, task: Task) -> Text:
        cells = list(self.cells())
        if task.total is None:
            cells.insert(0, ("", str(timedelta(seconds=int(task.elapsed or 0)))))
        # One space lies between two columns, and one cell stays free for the cursor.
        space = console.width - len(task.description) - self.beside - 2 * len(str(task.total or "?")) - 5
        line = Text()
        for label, value in cells:
            cell = Text.assemble("  " if line else "", f"{label} " if label else "", (value, "bold"))
            if line.cell_len + cell.cell_len > space:
                break
            line.append_text(cell)
        return line
