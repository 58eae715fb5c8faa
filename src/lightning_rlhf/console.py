"""The console of a run. Whatever a run prints goes through it, so that nothing lands inside its progress bar.

On a terminal, a line breaks between words or between cells, never inside a number. Elsewhere no line breaks.
"""

import io
import logging
import re
import sys
import textwrap
import time
from collections.abc import Iterable
from typing import IO

from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console
from rich.control import Control
from rich.table import Table
from rich.text import Text

from lightning_rlhf.run_log import LOG

_TINY = 5e-4
_SECONDS_PER_LINE = 15.0
# Control characters except tabs and line feeds, marks that turn the direction of writing, and lone surrogates.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class RunConsole(Console):
    """Rich's console, which also writes what it prints to the log of the run."""

    def print(self, *objects: object, **settings: object) -> None:
        """Prints, and adds the same text without colours to the log."""
        super().print(*objects, **settings)  # type: ignore[arg-type]
        # A progress bar draws itself by control codes.
        if not all(isinstance(item, Control) for item in objects):
            LOG.write(_plain(*objects, **settings))

    @property
    def file(self) -> IO[str]:
        """The stream below whatever a progress bar or the log has put before standard output."""
        file = super().file
        while (below := getattr(file, "rich_proxied_file", None)) is not None:
            file = below
        return file

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def say(self, message: str, style: str = "") -> None:
        """Prints a message whose lines break between words; a word that is too long, such as a path, stays whole."""
        self.show(message, style)
        LOG.write(printable(message))

    def show(self, message: str, style: str = "") -> None:
        """Prints a message as `say` does, but does not add it to the log."""
        lines = printable(message).splitlines()
        if self.is_terminal:
            lines = [textwrap.fill(line, self.width, break_long_words=False, break_on_hyphens=False) for line in lines]
        super().print(Text("\n".join(lines), style), highlight=False, soft_wrap=True)

    def cells(self, title: str, cells: Iterable[tuple[str, str]]) -> None:
        """Prints a title, and labels with their values; where a line is full, it breaks between two cells."""
        lines, whole = [Text(title)], Text(title)
        for label, value in cells:
            cell = Text.assemble(f"{label} " if label else "", (value, "bold"))
            whole.append("  ").append_text(cell)
            if self.is_terminal and lines[-1].cell_len + 2 + cell.cell_len > self.width:
                lines.append(Text("    ").append_text(cell))
            else:
                lines[-1].append("  ").append_text(cell)
        super().print(Text("\n").join(lines), highlight=False, soft_wrap=True)
        LOG.write(whole.plain)

    def table(self, table: Table) -> None:
        """Prints a table; if the terminal is too narrow for it, each of its rows becomes cells."""
        width = table.__rich_measure__(self, self.options.update(width=10_000)).maximum
        if width <= self.width:
            self.print(table)
            return
        if not self.is_terminal:
            self.print(Text(_plain(table)), soft_wrap=True, end="")
            return
        headers, columns = [str(column.header) for column in table.columns], [column.cells for column in table.columns]
        for row in zip(*columns, strict=True):
            cells = zip(headers[1:], map(str, row[1:]), strict=True)
            self.cells(f" {headers[0]} {row[0]}", [(header, cell) for header, cell in cells if cell])


def _plain(*objects: object, **settings: object) -> str:
    """What would be printed without colours on a console of any width."""
    with io.StringIO() as text:
        Console(file=text, width=10_000, highlight=False, color_system=None).print(*objects, **settings)  # type: ignore[arg-type]
        return text.getvalue()


console = RunConsole(highlight=False)
"""The console of this process. Only the first process prints."""


class TimedLines:
    """Says from time to time how far a job has come, where no terminal shows a bar."""

    def __init__(self) -> None:
        """Starts the time to the first line."""
        self._shown = time.monotonic()

    def say(self, message: str) -> None:
        """Says a message if it is time for a line."""
        if not console.is_terminal and time.monotonic() - self._shown >= _SECONDS_PER_LINE:
            console.say(message)
            self._shown = time.monotonic()


def complain(message: str, style: str = "bold red") -> None:
    """Prints a message on standard error, such as that with which a program ends, and adds it to the log of the run."""
    message = printable(message)
    Console(stderr=True, emoji=False).print(message, style=style, highlight=False, markup=False, soft_wrap=True)
    LOG.write(message)


def printable(text: str) -> str:
    """Shows characters that would control a terminal, such as those of ANSI escapes, as Python writes them.

    Messages may quote what a server or a model has written.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def number(value: float) -> str:
    """Formats a number with three digits, such as `0.0312` or `12,345`; a tiny one is `0`, without a sign."""
    if abs(value) < _TINY:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def three_decimals(value: float) -> str:
    """Formats a number such as `0.031`; a tiny one is `0.000`, without a sign."""
    return f"{round(value, 3) + 0.0:.3f}"


class Messages(logging.Handler):
    """Prints log records: on a terminal through the console, above the bar, and otherwise on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record on the first process. The log of the run has those of all processes."""
        if getattr(rank_zero_only, "rank", 0):
            return
        try:
            text = printable(self.format(record))
            if console.is_terminal and sys.stderr.isatty():
                console.show(text, style="yellow" if record.levelno >= logging.WARNING else "")
            else:
                stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
                stream.write(f"{text}\n")
                stream.flush()
        except Exception:
            self.handleError(record)


def print_messages() -> None:
    """Makes the log records of this program messages for the user; called once, when a command begins."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Messages()], force=True)
