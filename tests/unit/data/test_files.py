"""Reading rows from every kind of file, including every way in which a file can be broken."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_dataset

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.paths import is_local
from lightning_rlhf.data.sources import source_of
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError

ROWS = [{"prompt": "one", "completion": "eins"}, {"prompt": "zwei\nZeilen, ä", "completion": "two"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,completion\none,eins\n"zwei\nZeilen, ä",two\n'


def read_rows(path: str, *, split: str | None = None) -> Iterator[tuple[dict[str, object], str]]:
    """The rows with their places; the first that cannot be read is an error."""
    for row, place in source_of(path, Reading(split=split)).rows():
        if isinstance(row, WrongRow):
            raise UserError(f"{place}: {row}")
        yield row, place


def rows_of(path: Path | str, split: str | None = None) -> list[dict[str, object]]:
    return [row for row, _ in read_rows(str(path), split=split)]


def sources_of(path: Path | str) -> list[str]:
    return [source for _, source in read_rows(str(path))]


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "text", "sources"),
    [
        ("a.jsonl", JSONL, ["a.jsonl:1", "a.jsonl:2"]),
        ("a.ndjson", JSONL, ["a.ndjson:1", "a.ndjson:2"]),
        ("a.jsonl.gz", JSONL, ["a.jsonl.gz:1", "a.jsonl.gz:2"]),
        ("a.json", json.dumps(ROWS, indent=1), ["a.json, row 1", "a.json, row 2"]),
        ("a.json", json.dumps({"data": ROWS}), ["a.json, row 1", "a.json, row 2"]),
        ("A.JSON.gz", json.dumps(ROWS), ["A.JSON.gz, row 1", "A.JSON.gz, row 2"]),
        ("a.csv", CSV, ["a.csv:2", "a.csv:3"]),
        ("a.csv.gz", CSV, ["a.csv.gz:2", "a.csv.gz:3"]),
        ("bom.csv", "\ufeff" + CSV, ["bom.csv:2", "bom.csv:3"]),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n\r\n"), ["crlf.jsonl:1", "crlf.jsonl:3"]),
    ],
)
def test_every_kind_of_text_file_gives_the_same_rows(tmp_path: Path, name: str, text: str, sources: list[str]) -> None:
    path = write(tmp_path / name, text)
    assert rows_of(path) == ROWS
    assert sources_of(path) == sources


def test_a_csv_row_is_known_by_its_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'prompt,completion\n"one\n\nand",eins\n\nzwei,two\n')
    assert sources_of(path) == ["a.csv:2", "a.csv:6"]


def test_parquet_rows_are_numbered_across_row_groups(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"messages": [{"role": "user", "content": str(n)}]} for n in range(5)])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = list(read_rows(str(tmp_path / "a.parquet")))
    assert found[4] == ({"messages": [{"role": "user", "content": "4"}]}, "a.parquet, row 5")
    assert len(found) == 5


def test_a_folder_is_read_in_the_order_of_names_without_other_files(tmp_path: Path) -> None:
    for name in "hbdfaceg":
        write(tmp_path / f"{name}.jsonl", json.dumps({"name": name}))
    write(tmp_path / "README.md", "not data")
    (tmp_path / "z.jsonl").mkdir()
    assert list(read_rows(str(tmp_path))) == [({"name": name}, f"{name}.jsonl:1") for name in "abcdefgh"]


def test_a_folder_without_data_files_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "not data")
    with pytest.raises(UserError, match="holds no file of a known kind"):
        rows_of(tmp_path)


def test_a_folder_without_data_files_is_found_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no file of a known kind"):
        is_local(str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("")
    assert is_local(str(tmp_path))


def test_a_saved_dataset_is_read_from_its_folder(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved") == ROWS
    assert sources_of(tmp_path / "saved") == ["saved, row 1", "saved, row 2"]


def test_of_a_saved_dataset_dict_the_split_is_read(tmp_path: Path) -> None:
    both = DatasetDict(train=Dataset.from_list(ROWS[:1]), test=Dataset.from_list(ROWS[1:]))
    both.save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved", split="test") == ROWS[1:]
    with pytest.raises(UserError, match="no split 'dev', only 'train', 'test'"):
        rows_of(tmp_path / "saved", split="dev")


def test_a_damaged_saved_dataset_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path / "state.json", "{}")
    with pytest.raises(UserError, match="cannot be read"):
        rows_of(tmp_path)


def test_a_package_resource_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_package_with_data" / "sets"
    package.mkdir(parents=True)
    write(package / "a.jsonl", JSONL)
    monkeypatch.syspath_prepend(tmp_path)
    assert rows_of("pkg://toy_package_with_data.sets/a.jsonl") == ROWS
    with pytest.raises(UserError, match="'pkg://toy_package_with_data.sets/b.jsonl' does not exist"):
        rows_of("pkg://toy_package_with_data.sets/b.jsonl")
    with pytest.raises(UserError, match="no installed package 'toy_package_without'"):
        rows_of("pkg://toy_package_without/a.jsonl")


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "../missing", "deep/missing.csv.gz"])
def test_a_missing_file_is_an_error_with_the_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("a file is not looked for on the hub"))
    with pytest.raises(UserError) as error:
        rows_of(name)
    assert f"'{name}' does not exist" in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", JSONL)
    assert rows_of("~/a.jsonl") == ROWS


def test_any_other_name_is_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a network, `datasets` finds the data in its cache, where an earlier download would have left them.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = write(tmp_path / "rows.jsonl", JSONL)
    load_dataset("json", data_files=str(file))
    built = next((tmp_path / "cache" / "json").glob("*/*/*/dataset_info.json")).parent
    cached = tmp_path / "cache" / "some___set" / "default" / "0.0.0" / ("0" * 40)
    shutil.copytree(built, cached)
    (cached / "json-train.arrow").rename(cached / "set-train.arrow")
    assert list(read_rows("some/set"))[1] == (ROWS[1], "some/set, row 2")
    with pytest.raises(UserError, match="some/set"):
        rows_of("some/set", split="test")


def test_a_failure_of_the_hub_says_both_what_was_looked_for_and_what_the_hub_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"'no/such_set' is no file or folder .*cannot be loaded: .*no/such_set"):
        rows_of("no/such_set")


def truncated_gzip() -> bytes:
    return gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(5000)))[:-2000]


BROKEN = {
    "not JSON": ("a.jsonl", b'{"n": 1}\n{"n": \n', "a.jsonl:2: not valid JSON"),
    "a line that is no object": ("a.jsonl", b'{"n": 1}\n[1, 2]\n', "a.jsonl:2: expected a JSON object, found [1, 2]"),
    "a number too long for Python": ("a.jsonl", b"1" * 5000, "a.jsonl:1: not valid JSON"),
    "nested too deep": ("a.jsonl", b"[" * 100_000, "a.jsonl:1: the row is nested too deeply"),
    "invalid UTF-8": ("a.jsonl", b'{"n": 1}\n{"n": "\xff"}\n', "a.jsonl:2: not valid UTF-8"),
    "invalid UTF-8 in JSON": ("a.json", b'[{"n": 1},\n{"n": "\xff"}]\n', "a.json:2: not valid UTF-8"),
    "JSON cut off": ("a.json", b'[{"n": 1},\n{"n": 2', "a.json:2: not valid JSON"),
    "lines in a .json": ("a.json", b'{"n": 1}\n{"n": 2}\n', "name the file .jsonl"),
    "no list": ("a.json", b'{"rows": []}', 'expected a list of objects, or {"data": [...]}'),
    "an item that is no object": ("a.json", b'[{"n": 1}, "x"]', 'a.json, row 2: expected a JSON object, found "x"'),
    "gzip cut off": ("raw.jsonl.gz", truncated_gzip(), "the gzip file is truncated or damaged"),
    "no gzip": ("raw.jsonl.gz", b'{"n": 1}\n', "cannot be read: Not a gzipped file"),
    "too few columns": ("a.csv", b'a,b\n1,"x\ny"\n1\n', "a.csv:4: found 1 columns, expected 2"),
    "too many columns": ("a.csv", b"a,b\n1,2,3\n", "a.csv:2: found 3 columns, expected 2"),
    "an open quote": ("a.csv", b'a,b\n1,2\n"1,2\n', "a.csv:3: not valid CSV"),
    "a column twice": ("a.csv", b"a,a\n1,2\n", "a.csv:1: the header names a column twice"),
    "no Parquet": ("a.parquet", b"PAR1 nonsense", "a.parquet, row 1: not valid Parquet"),
    "an unknown kind": ("a.txt", b"hello", "is of no known kind"),
    "an empty JSONL": ("a.jsonl", b"\n\n", "holds no rows"),
    "an empty JSON": ("a.json", b"", "holds no rows"),
    "an empty list": ("a.json", b"[]", "holds no rows"),
    "a bare header": ("a.csv", b"a,b\n", "holds no rows"),
    "an empty gzip": ("a.csv.gz", b"", "holds no rows"),
}


@pytest.mark.parametrize(("name", "data", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_clear_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data) if name.startswith("raw") else write(path, data)
    with pytest.raises(UserError) as error:
        rows_of(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_gzip_is_known_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "raw.jsonl.gz"
    path.write_bytes(truncated_gzip())
    seen = []
    with pytest.raises(UserError) as error:  # noqa: PT012 - the rows before the damage count
        for row, _ in read_rows(str(path)):
            seen.append(row)
    assert len(seen) > 1000
    assert str(error.value).startswith(f"raw.jsonl.gz:{len(seen) + 1}: ")


def test_lines_are_streamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"n": 1}\nbroken\n')
    rows: Iterator[tuple[dict[str, object], str]] = read_rows(str(path))
    assert next(rows) == ({"n": 1}, "a.jsonl:1")
    with pytest.raises(UserError, match="a.jsonl:2"):
        next(rows)


def test_a_cell_of_a_csv_file_may_have_any_length(tmp_path: Path) -> None:
    # Python's csv module refuses cells of more than 131,072 characters unless it is told otherwise.
    file = tmp_path / "long.csv"
    file.write_text(f"prompt,completion\nshort,{'x' * 200_000}\n")
    ((row, place),) = read_rows(str(file))
    assert (len(row["completion"]), place) == (200_000, "long.csv:2")
