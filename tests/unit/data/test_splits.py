"""Which splits are trained on and which are held out, in folders, snapshots of the hub, and data sets in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from lightning_rlhf.data.sources import Data, held_out_source, source_of, sources_of
from lightning_rlhf.data.splits import Reading, choose, side_of
from lightning_rlhf.errors import UserError


@pytest.mark.parametrize(
    ("name", "side"),
    [("train", "train"), ("train_1", "train"), ("my-training.v2", "train"), ("train_prefs", "train"),
     ("validation", "validation"), ("dev", "validation"), ("x_val", "validation"), ("test2", "test"), ("eval", "test"),
     ("latest", None), ("rows", None), ("", None), ("train_test", "train")],
)  # fmt: skip
def test_a_name_says_what_a_split_is_for(name: str, side: str | None) -> None:
    assert side_of(name) == side


PREFS = ["train_prefs", "train_sft", "test_prefs", "test_sft"]
CHOICES: dict[str, tuple[list[str], dict[str, str], list[str], list[str]]] = {
    "no splits": ([""], {}, [""], []),
    "train alone": (["train"], {}, ["train"], []),
    "train and test": (["train", "test"], {}, ["train"], ["test"]),
    "validation rather than test": (["train", "test", "validation"], {}, ["train"], ["validation"]),
    "test, because it was asked for": (["train", "test", "dev"], {"val_split": "test"}, ["train"], ["test"]),
    "all that are for tests": (["train", "test_a", "test_b"], {"val_split": "test"}, ["train"], ["test_a", "test_b"]),
    "one of several": (PREFS, {"split": "train_prefs"}, ["train_prefs"], ["test_prefs"]),
    "one that no other belongs to": (["train_x", "train_y", "test_y"], {"split": "train_x"}, ["train_x"], []),
    "a single split of any name": (["prompts"], {}, ["prompts"], []),
    "what is not for tests": (["prompts", "test"], {}, ["prompts"], ["test"]),
    "the test split, because it was asked for": (["train", "test"], {"split": "test"}, ["test"], []),
}  # fmt: skip


@pytest.mark.parametrize(("names", "wanted", "train", "held_out"), CHOICES.values(), ids=CHOICES)
def test_the_splits_are_chosen(names: list[str], wanted: dict[str, Any], train: list[str], held_out: list[str]) -> None:
    chosen = choose(names, Reading(**wanted), "data", together=False)
    assert (chosen.train, chosen.held_out) == (train, held_out)
    assert sorted([*chosen.train, *chosen.held_out, *chosen.others]) == sorted(names)


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        (["train", "test"], {"split": "dev"}, "data.split=dev: 'x' has no split 'dev', only 'train', 'test'"),
        ([""], {"val_split": "dev"}, "data.val_split=dev: 'x' has no split 'dev', no splits"),
        (PREFS, {}, "has the splits 'train_prefs', 'train_sft', .* such as data.split=train_prefs"),
        (["test"], {}, "has the splits 'test': say which one to train on, such as data.split=test"),
    ],
)
def test_a_split_that_does_not_exist_or_is_not_clear_is_an_error(
    names: list[str], wanted: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        choose(names, Reading(**wanted), "x", together=False)


def test_one_split_is_not_both() -> None:
    with pytest.raises(UserError, match="data.val_split=a is also data.split"):
        Reading(split="a", val_split="a")


@pytest.mark.parametrize("columns", [{"promt": "question"}, {"prompt": 3}])
def test_a_field_that_is_not_known_is_an_error_with_those_that_are(columns: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected the name of a column .*: prompt, completion, messages"):
        Reading(columns=columns)


def test_columns_may_trade_names_and_others_stay() -> None:
    reading = Reading(columns={"prompt": "completion", "completion": "prompt", "score": "missing", "tools": None})
    row = {"prompt": 1, "completion": 2, "tools": 3, "id": 4}
    assert reading.renamed(row) == {"prompt": 2, "completion": 1, "id": 4}


def folder(path: Path, *names: str) -> str:
    """Files with a row each, whose `name` is that of the file."""
    for name in names:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            Dataset.from_list([{"name": name}]).to_parquet(file)
        else:
            row = json.dumps({"name": name})
            file.write_text({".json": f"[{row}]", ".csv": f"name\n{name}\n"}.get(file.suffix, row))
    return str(path)


def names(data: Data, **wanted: Any) -> tuple[list[Any], list[Any]]:
    """The rows to train on and to hold out."""
    train, held_out = sources_of(data, Reading(**wanted))
    return [row["name"] for row, _ in train.rows()], [row["name"] for row, _ in held_out.rows()] if held_out else []


FOLDERS: dict[str, tuple[list[str], dict[str, str], list[str], list[str]]] = {
    "two files": (["train.jsonl", "test.jsonl"], {}, ["train.jsonl"], ["test.jsonl"]),
    "several for training": (
        ["train_2.jsonl", "train_1.jsonl", "validation.json", "test.jsonl"],
        {},
        ["train_1.jsonl", "train_2.jsonl"],
        ["validation.json"],
    ),
    "names that say nothing": (["b.jsonl", "a.jsonl", "dataset_infos.json"], {}, ["a.jsonl", "b.jsonl"], []),
    "one that is held out": (["rows.jsonl", "test.jsonl"], {}, ["rows.jsonl"], ["test.jsonl"]),
    "files of programs": (["._train.jsonl", ".x/train.csv", "train.csv", "dataset_infos.json"], {}, ["train.csv"], []),
    "a snapshot of the hub": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
        {},
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/test-00000-of-00001.parquet"],
    ),
    "a split of a snapshot": (
        [f"data/{name}-00000-of-00001.parquet" for name in PREFS],
        {"split": "train_prefs"},
        ["data/train_prefs-00000-of-00001.parquet"],
        ["data/test_prefs-00000-of-00001.parquet"],
    ),
    "folders of splits": (["train/0000.jsonl", "test/0000.jsonl"], {}, ["train/0000.jsonl"], ["test/0000.jsonl"]),
    "folders of configurations": (
        ["en/train.jsonl", "en/test.jsonl", "de/train.jsonl"],
        {"config_name": "de"},
        ["de/train.jsonl"],
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "wanted", "train", "held_out"), FOLDERS.values(), ids=FOLDERS)
def test_the_files_of_a_folder_belong_to_splits(
    tmp_path: Path, files: list[str], wanted: dict[str, str], train: list[str], held_out: list[str]
) -> None:
    assert names(folder(tmp_path, *files), **wanted) == (train, held_out)


def test_shards_of_several_splits_are_not_read_together(tmp_path: Path) -> None:
    path = folder(tmp_path, *(f"data/{name}-00000-of-00001.parquet" for name in PREFS))
    with pytest.raises(UserError, match="say which one to train on"):
        names(path)


CARD = """---
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: data/a*.jsonl
  - split: test
    path: [data/b.jsonl]
- config_name: small
  data_files: data/c.jsonl
---
# A data set
"""


def test_the_data_card_says_which_files_belong_to_which_split(tmp_path: Path) -> None:
    path = folder(tmp_path, "data/a1.jsonl", "data/a2.jsonl", "data/b.jsonl", "data/c.jsonl")
    (tmp_path / "README.md").write_text(CARD)
    assert names(path) == (["data/a1.jsonl", "data/a2.jsonl"], ["data/b.jsonl"])
    assert names(path, config_name="small") == (["data/c.jsonl"], [])
    with pytest.raises(UserError, match="data.config_name=large: .*: choose one with data.config_name: main, small"):
        names(path, config_name="large")


def test_a_card_that_says_nothing_is_no_obstacle(tmp_path: Path) -> None:
    path = folder(tmp_path, "train.jsonl")
    for card in ("", "# Mine", "---\nlicense: mit\n---\n", "---\n{\n---\n"):
        (tmp_path / "README.md").write_text(card)
        assert names(path) == (["train.jsonl"], [])
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: de\n  data_files: only.jsonl\n---\n")
    folder(tmp_path, "only.jsonl")
    # A single configuration need not be the default to be read.
    assert names(path) == (["only.jsonl"], [])
    (tmp_path / "README.md").unlink()
    with pytest.raises(UserError, match="data.config_name=de: .* holds no folder 'de'"):
        names(path, config_name="de")


def test_data_sets_in_memory_have_splits_too(tmp_path: Path) -> None:
    data = DatasetDict({name: Dataset.from_list([{"name": name}]) for name in PREFS})
    assert names(data, split="train_sft") == (["train_sft"], ["test_sft"])
    assert names(data, split="train_sft", val_split="test_prefs") == (["train_sft"], ["test_prefs"])
    data.save_to_disk(tmp_path)
    assert names(str(tmp_path), split="train_prefs") == (["train_prefs"], ["test_prefs"])
    assert names([{"name": "a"}]) == (["a"], [])
    with pytest.raises(UserError, match="data.split=train: 'list' has no split"):
        names([{"name": "a"}], split="train")


def test_another_part_of_the_data_is_other_content(tmp_path: Path) -> None:
    path = folder(tmp_path, "train.jsonl", "test.jsonl")
    readings = [Reading(), Reading(split="test"), Reading(columns={"prompt": "name"})]
    contents = [source_of(path, reading).content for reading in readings]
    assert len({*contents}) == 3
    assert contents[0] == source_of(path).content


def test_of_held_out_data_the_split_for_training_is_left_out(tmp_path: Path) -> None:
    path = folder(tmp_path, "train.jsonl", "dev.jsonl", "test.jsonl")

    def held_out(data: str, **wanted: Any) -> list[Any]:
        return [row["name"] for row, _ in held_out_source(data, Reading(**wanted)).rows()]

    assert held_out(path) == ["dev.jsonl"]
    assert held_out(path, val_split="test") == ["test.jsonl"]
    assert held_out(str(tmp_path / "train.jsonl")) == ["train.jsonl"]
