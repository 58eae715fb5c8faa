"""Files of public data sets on the disk, and the files that are made of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from lightning_rlhf.assembly.import_dataset import import_dataset
from lightning_rlhf.data import sources
from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.importing.convert import LAYOUTS
from lightning_rlhf.errors import UserError

TRANSCRIPT = "\n\nHuman: {}\n\nAssistant: {}"


def imported(folder: Path, layout: str, path: Path, **settings: Any) -> Path:
    defaults: dict[str, Any] = {"split": None, "config_name": None, "where": None, "limit": None}
    return import_dataset(layout, str(path), str(folder / "out"), **(defaults | settings))


@pytest.fixture
def hh(tmp_path: Path) -> Path:
    """Four rows, the third of which is no pair."""
    rows = [(f"Question {n}", "good", "good" if n == 2 else "bad") for n in range(4)]
    file = tmp_path / "hh.jsonl.gz"
    lines = [
        json.dumps({"chosen": TRANSCRIPT.format(ask, good), "rejected": TRANSCRIPT.format(ask, bad)})
        for ask, good, bad in rows
    ]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def test_the_counts_say_what_was_kept_and_dropped_and_why(
    hh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = imported(tmp_path, "hh", hh)
    result = json.loads((folder / "result.json").read_text())
    expected = {"read": 4, "kept": {"preferences": 3}, "dropped": {"both answers are equal": 1}}
    assert result["metrics"] == expected
    printed = capsys.readouterr().out
    assert "4 rows read" in printed
    assert "preferences.jsonl: 3 rows" in printed
    assert "dropped because both answers are equal: 1" in printed


def test_a_limit_counts_the_rows_that_are_read(hh: Path, tmp_path: Path) -> None:
    folder = imported(tmp_path, "hh", hh, limit=3)
    assert len((folder / "preferences.jsonl").read_text().splitlines()) == 2


def test_rows_with_other_values_than_those_wanted_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "chosen": "a", "rejected": "b", "subset": name} for name in ("math", "code", "math")]
    file = tmp_path / "rewardbench.json"
    file.write_text(json.dumps(rows))
    folder = imported(tmp_path, "rewardbench", file, where={"subset": "code"})
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["kept"] == {"preferences": 1}
    assert result["metrics"]["dropped"] == {"subset is not code": 2}


def test_a_column_that_the_data_do_not_have_is_named(hh: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 4 rows .*: there is no column lang \(4\)$"):
        imported(tmp_path, "hh", hh, where={"lang": "en"})


def test_a_choice_of_splits_is_asked_for_as_this_command_calls_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = Dataset.from_list([{"prompt": "Q", "chosen": "a", "rejected": "b"}])
    DatasetDict({"train_prefs": rows, "train_sft": rows}).save_to_disk(str(data))
    with pytest.raises(UserError, match=r"has the splits 'train_prefs', 'train_sft': .* such as split=train_prefs$"):
        imported(tmp_path, "rewardbench", data)


def test_data_of_another_layout_leave_nothing_behind(hh: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^layout=alpaca: none of the 4 rows .*: the instruction is empty \(4\)$"):
        imported(tmp_path, "alpaca", hh)
    assert [path.name for path in tmp_path.iterdir()] == ["hh.jsonl.gz"]


def test_a_folder_that_is_not_empty_is_refused(hh: Path, tmp_path: Path) -> None:
    folder = imported(tmp_path, "hh", hh)
    with pytest.raises(UserError, match=r"^output_dir=.*out: it is not empty"):
        imported(tmp_path, "hh", hh)
    assert (folder / "preferences.jsonl").exists()


def test_without_a_path_the_published_split_of_the_data_set_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "Q?", "chosen": ["a"], "rejected": ["b"], "subset": "math"}]
    asked = []

    def load(name: str, config_name: str | None) -> dict[str, Dataset]:
        asked.append((name, config_name))
        return {"test": Dataset.from_list(rows), "other": Dataset.from_list(rows * 2)}

    monkeypatch.setattr(sources, "load_hub", load)
    settings: dict[str, Any] = {"split": None, "config_name": None, "where": None, "limit": None}
    folder = import_dataset("rewardbench2", None, str(tmp_path / "out"), **settings)
    assert asked == [("allenai/reward-bench-2", None)]
    assert len((folder / "best_of.jsonl").read_text().splitlines()) == 1


def test_an_unknown_layout_is_refused_with_those_that_there_are(hh: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^layout=hhh: expected one of {', '.join(LAYOUTS)}$"):
        imported(tmp_path, "hhh", hh)


def test_what_is_written_is_what_the_stages_read(tmp_path: Path) -> None:
    completions = [{"response": text, "overall_score": score} for text, score in (("good", 5), ("bad", 1))]
    file = tmp_path / "ultrafeedback.jsonl"
    file.write_text(json.dumps({"instruction": "Q?", "source": "s", "completions": completions}))
    folder = imported(tmp_path, "ultrafeedback", file)
    (pair,) = read_records(str(folder / "preferences.jsonl"), "pair").rows
    assert pair.messages[-1]["content"] == "good"
    assert pair.rejected is not None
    assert pair.rejected[-1]["content"] == "bad"
    assert pair.columns == {"source": "s"}
    first, second = read_records(str(folder / "scores.jsonl"), "score").rows
    assert (first.score, second.score) == (5.0, 1.0)
