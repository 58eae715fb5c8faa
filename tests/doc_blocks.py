"""The fenced blocks of README.md and docs/: their language, the mark above them, and the commands in them.

A block is run by tests/integration/test_docs_run.py unless a comment stands in the line above it:

    <!-- not run: needs a GPU -->                     its commands compose, but are not run
    <!-- run by tests/unit/rewards/test_docs.py -->   another test runs it
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Languages of programs and data; `text` and `console` show what a program prints or how files lie.
CODE = ("bash", "python", "json", "yaml")
SHOWN = ("text", "console")
OURS = re.compile(r"(?:^|\s)(?:python train\.py|train\.py|lightning-rlhf(?!\s+python))(?=\s|$)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    title: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why the block is not run; None if it is not marked so."""
        found = re.fullmatch(r"<!-- not run[^:]*: (.+) -->", self.mark)
        return found[1] if found else None

    @property
    def runner(self) -> str | None:
        """The test that runs the block; None if the mark names none."""
        found = re.fullmatch(r"<!-- run by (\S+) -->", self.mark)
        return found[1] if found else None

    @property
    def is_run(self) -> bool:
        return self.language in CODE and not self.mark

    @property
    def lines(self) -> list[str]:
        """The lines of a block for the shell, each with its continuations and without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        return [line for text in joined.splitlines() if (line := without_comment(text))]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of this package in the block, from the name of the command on."""
        return [words for line in self.lines if (words := command_of(line))]


def without_comment(line: str) -> str:
    """A line for the shell without its comment."""
    return "" if line.lstrip().startswith("#") else re.split(r"\s#\s", line)[0].strip()


def command_of(line: str) -> list[str]:
    """The words of our command in a line, which torchrun, srun or docker may start; empty if there is none."""
    if line.startswith(("pip ", "docker build", "eval ")) or "install=" in line:
        return []
    found = OURS.search(line)
    if found is None or re.search(r"\|", line.split("'")[0]):
        return []
    words = shlex.split(line[found.end() :])
    # "…" stands for what the reader fills in.
    words = [word.replace("<run>", "run").replace("<date>", "date") for word in words if not word.endswith("…")]
    return words if found[0].strip() == "lightning-rlhf" else ["train", *words]


def blocks_of(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page.

    Raises:
        ValueError: If the last block has no end.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        language, _, more = lines[start][3:].partition(" ")
        title = re.findall(r'title="([^"]*)"', more)
        mark = lines[start - 1] if lines[start - 1].startswith("<!--") else ""
        text = "\n".join(lines[start + 1 : number]) + "\n"
        found.append(Block(page.name, start + 1, language, title[0] if title else "", mark, text))
        start = None
    if start is not None:
        raise ValueError(f"{page.name}:{start + 1}: the block has no end")
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
