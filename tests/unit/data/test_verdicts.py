"""Rows of a file of labels in which people prefer no answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.kinds import demonstrations
from lightning_rlhf.data.pairs import PAIRS
from lightning_rlhf.data.prepare import prepare
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource

QUESTION = [{"role": "user", "content": "Why?"}]
PAIR = {"prompt": QUESTION, "chosen": "Because.", "rejected": "Dunno.", "verdict": "better"}
UNDECIDED = {
    verdict: {"prompt": QUESTION, "answers": ["Because.", "Dunno."], "verdict": verdict}
    for verdict in ("tie", "both_bad", "skip", "repeat")
}


@pytest.fixture
def labels(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: Any) -> str:
        (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "labels.jsonl")

    return write


@pytest.mark.parametrize("need", ["pair", "completion"])
def test_ties_and_answers_that_are_all_bad_teach_no_preference_and_are_counted(labels: Any, need: Any) -> None:
    path = labels(UNDECIDED["tie"], PAIR, *UNDECIDED.values())
    records = read_records(path, need)
    assert [record.messages[-1]["content"] for record in records.rows] == ["Because."]
    assert records.skipped == []
    assert {note: count for note, count in records.notes.items() if "left out" in note} == {
        "ties left out": 2,
        "rows whose answers are all bad left out": 1,
        "skipped questions left out": 1,
        "repeated questions left out": 1,
    }


def test_prompts_about_whose_answers_nobody_has_decided_are_still_prompts(labels: Any) -> None:
    assert len(read_records(labels(PAIR, *UNDECIDED.values()), "prompt").rows) == 5


def test_columns_for_people_are_no_surprise_in_a_file_of_labels(labels: Any) -> None:
    label = {"item": "a", "person": "ann"}
    pair, tie = ({**row, "label": label} for row in (PAIR, UNDECIDED["tie"]))
    assert read_records(labels(pair), "pair").notes == read_records(labels(tie), "prompt").notes == {}
    assert read_records(labels({**PAIR, "label": "spam"}), "pair").notes == {
        "column 'verdict' is not part of the conversation": 1,
        "column 'label' is not part of the conversation": 1,
    }


def test_a_file_without_a_decision_is_an_error_that_counts_what_there_is(labels: Any) -> None:
    path = labels(UNDECIDED["tie"], UNDECIDED["skip"], UNDECIDED["tie"])
    with pytest.raises(UserError) as error:
        read_records(path, "pair")
    assert str(error.value) == (
        f"data '{path}' holds no pair of which people prefer one answer: "
        "ties left out: 2; skipped questions left out: 1"
    )


def test_a_verdict_beside_a_pair_and_other_verdicts_mean_nothing(labels: Any) -> None:
    assert len(read_records(labels(PAIR | {"verdict": "tie"}), "pair").rows) == 1
    with pytest.raises(UserError, match="field 'chosen' is missing"):
        read_records(labels(UNDECIDED["tie"] | {"verdict": "unclear"}), "pair")


def test_the_stages_tell_each_kind_once(labels: Any, make_source: Callable[..., ModelSource]) -> None:
    renderer = Renderer(make_source().load_tokenizer())
    path = labels(PAIR, *UNDECIDED.values())
    for kind in (PAIRS, demonstrations()):
        prepared: Any = prepare(path, kind, renderer, "raise")
        assert len(prepared.rows) == prepared.report.read == 1
        assert prepared.report.notes["ties left out"] == 1
