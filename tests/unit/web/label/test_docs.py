"""The row and the keys in docs/labelling.md."""

import json
import re
from pathlib import Path

from lightning_rlhf.data.formats import read_records

DOC = (Path(__file__).parents[4] / "docs" / "labelling.md").read_text()


def test_the_row_that_is_shown_is_a_pair(tmp_path: Path) -> None:
    (row,) = re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "labels.jsonl").write_text(json.dumps(json.loads(row)))
    (record,) = read_records(str(tmp_path / "labels.jsonl"), "pair").rows
    assert record.messages[-1]["content"] == "Because."


def test_every_key_of_the_page_is_documented_and_in_its_help() -> None:
    folder = Path(__file__).parents[4] / "src" / "lightning_rlhf" / "web" / "label"
    acts = (folder / "act.js").read_text()
    keys = set(re.findall(r'^\s+"?([=\w])"?: \(\) =>', acts, re.MULTILINE)) | set(re.findall(r" ([a-z]): [\w(]", acts))
    keys &= set("=0slcmendrup")
    assert len(keys) == 12
    table = DOC.partition("| key | meaning |")[2].partition("\n\n")[0]
    help = (folder / "page.html").read_text().partition('<dialog id="help">')[2].partition("</dialog>")[0]
    for key in keys:
        assert re.search(rf"^\|[^|]*(?<!\w){key}(?!\w)[^|]*\|", table, re.MULTILINE), key
        assert f"<kbd>{key}</kbd>" in help
