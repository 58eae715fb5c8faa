"""Files that would take the memory of a machine, hold a run for ever, or say one thing twice."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from lightning_rlhf.data.bounds import LONGEST_LINE, LONGEST_ROW
from lightning_rlhf.data.faults import Report
from lightning_rlhf.data.formats import records_of
from lightning_rlhf.data.sources import source_of
from lightning_rlhf.errors import UserError

ROW = '{"prompt": "Hello"}\n'


def prompts(path: Path | str, on_error: Literal["raise", "skip"] = "raise") -> tuple[list[str], Report]:
    report = Report()
    records = records_of(source_of(str(path)), need="prompt", report=report, on_error=on_error)
    return [record.prompt[0]["content"] for record in records], report


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.jsonl")


@pytest.mark.parametrize(
    ("make", "message"),
    [(pipe, "is a device, a pipe or a folder"), (device, "is a device, a pipe"), (dangling, "is a link to nothing")],
)
def test_what_is_no_plain_file_is_named_alone_and_among_others(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    for place in (tmp_path / "alone.jsonl", tmp_path / "folder" / "b.jsonl"):
        place.parent.mkdir(exist_ok=True)
        make(place)
    (tmp_path / "folder" / "a.jsonl").write_text(ROW)
    for path, named in (("alone.jsonl", "alone.jsonl"), ("folder", "folder/b.jsonl")):
        with pytest.raises(UserError, match=f"^data file '{tmp_path}/{named}' {message}"):
            prompts(tmp_path / path)


@pytest.mark.parametrize("path", ["/tmp/" + "a" * 5000, "a" * 300 + ".jsonl", "~nobody-of-this-name/a.jsonl"])
def test_a_path_that_cannot_be_looked_up_is_one_message(path: str) -> None:
    with pytest.raises(UserError, match=f"^data '{path[:200]}' cannot be looked up: "):
        prompts(path)


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    for name in ("bomb.jsonl.gz", "bomb.csv.gz"):
        with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
            file.write(b"prompt\n" if "csv" in name else ROW.encode())
            for _ in range(LONGEST_LINE // 2**20 + 1):
                file.write(b"a" * 2**20)
        with pytest.raises(UserError, match=f"^{name}:2: the line is longer than 67,108,864 bytes$"):
            prompts(tmp_path / name)


def test_a_small_gzip_file_does_not_become_a_large_list(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"[" + (b" " * 2**20) * 65 + b"]")
    with pytest.raises(UserError, match="contains more than 200 times its own size; unpack it if you trust it"):
        prompts(path)
    (tmp_path / "long.json").write_text("[" + ROW + "," + " " * LONGEST_LINE + ROW + "]")
    assert prompts(tmp_path / "long.json")[0] == ["Hello", "Hello"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a" * (LONGEST_ROW + 1)}, "the row has 16,777,217 characters; at most 16,777,216 are read"),
        ({"prompt": ["a" * 2**20] * 17}, "the row has 17,825,792 characters"),
        ({"prompt": "a", "x": json.loads("[" * 101 + "]" * 101)}, "the row is nested more than 100 deep"),
        ({"prompt": "a", "x": json.loads('{"a":' * 900 + "1" + "}" * 900)}, "the row is nested more than 100 deep"),
    ],
)
def test_a_row_without_measure_is_wrong_and_the_others_are_read(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW + json.dumps(row) + "\n" + ROW)
    with pytest.raises(UserError, match=f"rows.jsonl:2: {message}"):
        prompts(path)
    read, report = prompts(path, "skip")
    assert (read, len(report.skipped)) == (["Hello", "Hello"], 1)


def test_depth_and_size_at_the_limit_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "x": json.loads("[" * 100 + "]" * 100)}) + "\n")
    assert prompts(path)[0] == ["a"]


def test_a_key_that_occurs_twice_is_a_mistake_and_not_the_last_value(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(ROW + '{"prompt": "one", "prompt": "two"}\n')
    with pytest.raises(UserError, match="a.jsonl:2: the key 'prompt' occurs twice in an object"):
        prompts(tmp_path / "a.jsonl")
    assert prompts(tmp_path / "a.jsonl", "skip")[0] == ["Hello"]
    (tmp_path / "b.json").write_text('[{"prompt": "a", "x": {"y": 1, "y": 2}}]')
    with pytest.raises(UserError, match="b.json: the key 'y' occurs twice in an object"):
        prompts(tmp_path / "b.json")
