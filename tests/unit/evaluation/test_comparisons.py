"""Preferences as they stand in files: pairs, and rows of several answers."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_rlhf.data.faults import Report
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.comparisons import Comparison, read_comparisons

# The columns of RewardBench 2.
ROW: dict[str, Any] = {
    "id": "7",
    "prompt": "My kettle leaks.",
    "chosen": ["Tighten the seal."],
    "rejected": ["Go away.", "Buy a new one.", "Hm."],
    "num_correct": 1,
    "num_incorrect": 3,
    "total_completions": 4,
    "models": ["a", "b", "c", "d"],
    "subset": "Focus",
    "additional_metadata": None,
}


def read(rows: Any, on_error: Any = "raise", **reading: Any) -> tuple[list[Comparison], Report]:
    report = Report()
    return read_comparisons(rows, Reading(**reading), report, on_error), report


def texts(conversations: list[Any]) -> list[str]:
    return [conversation[-1]["content"] for conversation in conversations]


@pytest.mark.parametrize("kind", ["memory", "jsonl", "parquet"])
def test_a_row_of_rewardbench_2_has_one_good_and_three_bad_answers(kind: str, tmp_path: Path) -> None:
    data: Any = [ROW, {**ROW, "id": "8"}]
    if kind == "jsonl":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
        data = str(tmp_path / "rows.jsonl")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(data), tmp_path / "rows.parquet")
        data = str(tmp_path / "rows.parquet")
    (first, second), _ = read(data)
    assert texts(first.good) == ["Tighten the seal."]
    assert texts(first.bad) == ["Go away.", "Buy a new one.", "Hm."]
    assert first.good[0][0] == {"role": "user", "content": "My kettle leaks."}
    assert first.columns["subset"] == "Focus"
    assert first.prompt == second.prompt
    assert second.columns["id"] == "8"


def test_a_pair_in_any_layout_is_one_good_and_one_bad_answer() -> None:
    pair = {"prompt": "Hello", "chosen": "Hi.", "rejected": "What?", "source": "mine"}
    transcript = {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi.", "rejected": "\n\nHuman: Hello\n\nAssistant: What?"}
    messages = [{"role": "user", "content": "Hello"}]
    chat = {
        "chosen": [*messages, {"role": "assistant", "content": "Hi."}],
        "rejected": [*messages, {"role": "assistant", "content": "What?"}],
    }
    for row in (pair, transcript, chat):
        ((found,), _) = read([row])
        assert (texts(found.good), texts(found.bad)) == (["Hi."], ["What?"])
        assert json.loads(found.prompt) == messages
    assert read([pair])[0][0].columns == {"source": "mine"}


def test_the_system_prompt_of_a_row_stands_before_all_answers() -> None:
    ((found,), _) = read([{**ROW, "system": "Be kind."}])
    assert {conversation[0]["content"] for conversation in found.conversations} == {"Be kind."}


def test_other_names_of_columns_are_understood() -> None:
    row = {"question": "Hello", "right": ["Hi."], "wrong": ["What?", "Bah."]}
    ((found,), _) = read([row], columns={"prompt": "question", "chosen": "right", "rejected": "wrong"})
    assert texts(found.bad) == ["What?", "Bah."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": []}, "field 'rejected' is a list ([]), expected a list of texts"),
        ({"rejected": "Go away."}, "field 'rejected' is text (\"Go away.\"), expected a list of texts"),
        ({"rejected": ["Go away.", 3]}, "expected a list of texts"),
        ({"rejected": ["Go away.", " "]}, "field 'rejected[1]' holds an empty answer"),
        ({"prompt": None}, "field 'prompt' is missing"),
    ],
)
def test_a_wrong_row_is_named_or_skipped(change: dict[str, Any], message: str) -> None:
    rows = [ROW, {**ROW, **change}]
    with pytest.raises(UserError) as error:
        read(rows)
    assert f"list, row 2: {message}" in str(error.value) or message in str(error.value)
    found, report = read(rows, "skip")
    assert len(found) == len(report.skipped) == 1


def test_the_split_that_is_not_for_training_is_read(tmp_path: Path) -> None:
    for name in ("train", "test"):
        row = {"prompt": name, "chosen": "Hi.", "rejected": "What?"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert [row.good[0][0]["content"] for row in read(str(tmp_path))[0]] == ["test"]
    assert [row.good[0][0]["content"] for row in read(str(tmp_path), val_split="train")[0]] == ["train"]
