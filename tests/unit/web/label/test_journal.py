"""A file that grows by whole lines only."""

import errno
import json
import os
from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.web.label.journal import Journal


def reopened(path: Path) -> list[object]:
    return list(Journal(path, "out").rows)


def test_rows_are_in_the_file_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    (tmp_path / "new").mkdir()
    journal = Journal(tmp_path / "new" / "a.jsonl", "out")
    journal.append([{"a": 1}, {"a": "ü"}])
    text = (tmp_path / "new" / "a.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [{"a": 1}, {"a": "ü"}] == journal.rows
    # The first is the file with all its bytes, and the second the folder with its name.
    assert synced[0] == len(text.encode())
    assert len(synced) == 2
    journal.append([{"a": 3}])
    assert len(synced) == 3


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_line_that_was_not_finished_is_removed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + '{"b": 22}\n'[:-cut])
    expected = [{"a": 1}, {"b": 22}] if cut == 1 else [{"a": 1}]
    assert reopened(path) == expected
    # What follows begins on a line of its own.
    journal = Journal(path, "out")
    journal.append([{"c": 3}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*expected, {"c": 3}]


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "a.jsonl", "out")
    journal.append([{"a": 1}])
    before = journal.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append([{"b": 2}])
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    assert journal.rows == [{"a": 1}]


@pytest.mark.parametrize("line", ["no JSON", "[1]", "3"])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(UserError, match=r"out=.*a\.jsonl: line 2 is not a JSON object"):
        Journal(path, "out")
    assert path.read_text() == f'{{"a": 1}}\n{line}\n{{"a": 2}}\n'


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Journal(tmp_path, "out")
