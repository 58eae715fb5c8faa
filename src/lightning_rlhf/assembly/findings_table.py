"""Prints the findings of the checks of a run."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lightning_rlhf.checks.finding import Finding
from lightning_rlhf.distributed.collectives import is_first_process

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def show(stage: str, findings: Sequence[Finding]) -> None:
    """Prints the findings about a stage, one per line. Lines are wrapped on a terminal only."""
    if not is_first_process():
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(stage, style="bold")
    names = max(len(finding.check) for finding in findings)
    start = "\n" + " " * (2 + 9 + names + 2)
    width = max(console.width - len(start), 40) if console.is_terminal else 10_000
    for finding in findings:
        line = Text.assemble("  ", (f"{finding.status:<9}", _STYLES[finding.status]), f"{finding.check:<{names + 2}}")
        line.append(start.join(_folded(finding.found, width)))
        if finding.remedy:
            line.append(start).append(start.join(_folded(finding.remedy, width)), "dim")
        console.print(line)
    console.print()


def _folded(text: str, width: int) -> list[str]:
    return [line for whole in text.splitlines() for line in textwrap.wrap(whole, width, break_on_hyphens=False)]


def sum_up(statuses: Sequence[str], result: Path) -> None:
    """Prints the number of findings of each status, and the path of the result."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{statuses.count(status)} {status}" for status in _STYLES))
    console.print(f"  result    {result}")
