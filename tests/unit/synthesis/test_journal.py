"""A file that survives a kill."""

import json
from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.journal import Journal


def opened(file: Path) -> Journal:
    return Journal(file, "output_dir=x")


def test_the_next_process_finds_what_was_appended(tmp_path: Path) -> None:
    file = tmp_path / "new" / "journal.jsonl"
    first = opened(file)
    first.append({"n": 1, "text": "ü\u2028"})
    # The line is in the file before it is closed.
    assert json.loads(file.read_text(encoding="utf-8")) == {"n": 1, "text": "ü\u2028"}
    first.close()
    second = opened(file)
    assert second.entries == [{"n": 1, "text": "ü\u2028"}]
    second.append({"n": 2})
    second.close()
    assert [entry["n"] for entry in opened(file).entries] == [1, 2]


@pytest.mark.parametrize("kept", range(1, 9))
def test_a_part_of_a_line_is_removed_wherever_it_was_cut(kept: int, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_bytes(b'{"n":1}\n' + b'{"n":2}\n'[:kept])
    journal = opened(file)
    assert [entry["n"] for entry in journal.entries] == [1, 2][: 1 + kept // 8]
    journal.append({"n": 3})
    journal.close()
    assert [json.loads(line)["n"] for line in file.read_bytes().splitlines()][-1] == 3


def test_only_one_process_at_a_time_writes(tmp_path: Path) -> None:
    first = opened(tmp_path / "journal.jsonl")
    with pytest.raises(UserError, match="^output_dir=x: another process is writing"):
        opened(tmp_path / "journal.jsonl")
    first.close()
    opened(tmp_path / "journal.jsonl").close()


@pytest.mark.parametrize(("line", "message"), [("no JSON", "2 is not valid JSON"), ("[1]", "2 is no JSON object")])
def test_another_file_is_refused_and_left_as_it_is(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    content = f'{{"n": 1}}\n{line}\n'
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        opened(file)
    assert file.read_text() == content
