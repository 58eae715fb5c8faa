"""The rows, the templates and the tables in docs/making_data.md are right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.formats import Need, read_records
from lightning_rlhf.data.importing.convert import LAYOUTS
from lightning_rlhf.synthesis.agreement import Agreement
from lightning_rlhf.synthesis.templates import read_templates

DOC = (Path(__file__).parents[3] / "docs" / "making_data.md").read_text(encoding="utf-8")
ROWS = [json.loads(line) for block in re.findall(r"```json\n(.*?)```", DOC, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize(
    ("row", "need"), list(zip(ROWS, ("completion", "prompt", "completion", "pair", "score"), strict=True))
)
def test_a_row_is_read(row: dict[str, Any], need: Need) -> None:
    assert len(read_records([row], need).rows) == 1


def test_the_templates_are_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
    file = tmp_path / "templates.yaml"
    file.write_text(block)
    assert read_templates(str(file)).topic(1) == "stuck doors"


def test_the_table_names_each_layout_with_its_data_set() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w/-]+)`", DOC.partition("## Public data")[2], re.MULTILINE)
    assert dict(rows) == {name: layout.hub for name, layout in LAYOUTS.items()}


def test_the_agreement_is_told_as_the_page_shows_it() -> None:
    (shown,) = re.findall(r"^agreement with people.*$", DOC, re.MULTILINE)
    assert Agreement(120, 0.842, 0.766, 0.896, 0.688, 0.557, 0.819, 3).told() == shown
