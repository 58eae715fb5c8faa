"""Tables of the documentation: a row that has other cells than its header is cut off, or belongs to another table."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("benchmarks/**/*.md"))]


def tables(text: str) -> list[list[str]]:
    """Returns the rows of each table, that is, of each group of neighbouring lines that begin with a bar."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [found.splitlines() for found in re.findall(r"(?:^\|.*\n?)+", without_code, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_rows_of_a_table_have_as_many_cells_as_its_header(page: Path) -> None:
    for rows in tables(page.read_text(encoding="utf-8")):
        # A bar after a backslash is a character of the cell.
        cells = {row: len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert re.fullmatch(r"(\| ?:?-+:? ?)+\|", rows[1]), rows[:2]
        assert {row: found for row, found in cells.items() if found != cells[rows[0]]} == {}


def test_there_are_tables_to_check() -> None:
    assert sum(len(tables(page.read_text(encoding="utf-8"))) for page in PAGES) >= 30
