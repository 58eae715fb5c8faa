"""Blind pairs for people, and what they say about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.answers import Answered, read_answers, write_answers
from lightning_rlhf.evaluation.people import BLIND_PAIRS, people_verdicts, write_blind_pairs


@pytest.fixture
def rows(make_row: Callable[..., Answered]) -> list[Answered]:
    return [make_row(f"a{n}", f"b{n}", f"prompt {n % 10}") for n in range(20)] + [make_row("same", "same")]


def pairs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / BLIND_PAIRS).read_text().splitlines()]


def labelled(folder: Path, *labels: dict[str, Any]) -> str:
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(label) + "\n" for label in labels))
    return str(file)


def test_a_blind_pair_does_not_tell_which_model_wrote_an_answer(rows: list[Answered], tmp_path: Path) -> None:
    assert write_blind_pairs(tmp_path, rows, seed=0) == 20
    found = pairs(tmp_path)
    assert {key for pair in found for key in pair} == {"id", "prompt", "chosen", "rejected", "blind"}
    # Each model comes first in half of the pairs, and neither the order of the rows nor that of the sides is regular.
    first = [pair["chosen"][0] for pair in found]
    assert (first.count("a"), first.count("b")) == (10, 10)
    assert [pair["id"] for pair in found] != sorted(pair["id"] for pair in found)
    assert first not in (["a", "b"] * 10, ["b", "a"] * 10, ["a"] * 10 + ["b"] * 10, ["b"] * 10 + ["a"] * 10)
    again, other = pairs(tmp_path), None
    write_blind_pairs(tmp_path, rows, seed=1)
    other = pairs(tmp_path)
    assert again == found != other


def test_pairs_that_somebody_chose_from_give_the_verdicts_back(rows: list[Answered], tmp_path: Path) -> None:
    write_blind_pairs(tmp_path, rows, seed=0)
    wins = {1, 4, 5, 17}
    chosen = []
    for pair in pairs(tmp_path):
        texts = sorted([pair["chosen"], pair["rejected"]])
        good, bad = texts if pair["id"] in wins else texts[::-1]
        chosen.append({"prompt": pair["prompt"], "chosen": good, "rejected": bad})
    found = people_verdicts(labelled(tmp_path, *chosen), rows)
    assert found.verdicts == [float(n in wins) for n in range(20)] + [0.5]
    assert found.labels == 20


def test_ties_skips_and_repeats_of_a_labelling_are_understood(rows: list[Answered], tmp_path: Path) -> None:
    def asked(number: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"prompt {number}"}]

    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    file = labelled(
        tmp_path,
        {"prompt": asked(0), "chosen": turn("a0"), "rejected": turn("b0"), "verdict": "better"},
        {"prompt": asked(0), "chosen": turn("b0"), "rejected": turn("a0"), "verdict": "better"},
        {"prompt": asked(0), "chosen": turn("a0"), "rejected": turn("b0"), "verdict": "better"},
        {"prompt": asked(1), "verdict": "tie", "answers": ["b1", "a1"]},
        {"prompt": "prompt 2", "verdict": "both_bad", "answers": ["a2", "b2"]},
        {"prompt": asked(3), "verdict": "skip", "answers": ["a3", "b3"]},
        {"prompt": asked(4), "verdict": "repeat", "answers": ["a4", "b4"]},
    )
    found = people_verdicts(file, rows)
    assert found.verdicts[:5] == [pytest.approx(2 / 3), 0.5, 0.5, None, None]
    assert (found.both_bad, found.labels) == ([2], 5)


@pytest.mark.parametrize("label", [{"prompt": "prompt 0", "chosen": "a0", "rejected": "x"}, {"prompt": "other"}, {}])
def test_labels_of_other_answers_are_refused(label: dict[str, str], rows: list[Answered], tmp_path: Path) -> None:
    file = labelled(tmp_path, label)
    with pytest.raises(
        UserError, match=r"labels.jsonl:1: no row of the answers has this prompt with these two answers"
    ):
        people_verdicts(file, rows)


def test_answers_come_back_as_they_were_written(make_row: Callable[..., Answered], tmp_path: Path) -> None:
    rows = [make_row("a\n\u2028é", "", "Hello", answer=[1, None]), make_row("x", "y")]
    write_answers(tmp_path, rows)
    assert read_answers(tmp_path) == rows
    with pytest.raises(UserError, match=r"there is no answers.jsonl; name the folder of an earlier evaluation"):
        read_answers(tmp_path / "other")
    (tmp_path / "answers.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(UserError, match="answers.jsonl cannot be read: KeyError"):
        read_answers(tmp_path)
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(UserError, match="answers.jsonl has no rows"):
        read_answers(tmp_path)
