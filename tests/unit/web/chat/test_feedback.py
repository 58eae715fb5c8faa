"""Thumbs become ratings, and ratings of one conversation become pairs."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.formats import read_records
from lightning_rlhf.errors import UserError
from lightning_rlhf.web.chat.feedback import PREFERENCES, RATINGS, Feedback, Saved

TALK: list[Any] = [{"role": "user", "content": "My kettle leaks."}]
OTHER: list[Any] = [{"role": "user", "content": "My door is stuck."}]


@pytest.fixture
def feedback(tmp_path: Path) -> Feedback:
    return Feedback(tmp_path)


def pairs(folder: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / PREFERENCES).read_text().splitlines()]
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]


def test_a_thumb_up_and_a_thumb_down_make_a_pair(feedback: Feedback, tmp_path: Path) -> None:
    assert feedback.rate(TALK, "Tighten the seal.", True) == Saved(0, 1)
    assert feedback.rate(OTHER, "Go away.", False) == Saved(0, 2)
    assert feedback.rate(TALK, "Buy another.", True) == Saved(0, 3)
    assert feedback.rate(TALK, "Go away.", False) == Saved(2, 4)
    assert pairs(tmp_path) == [("Tighten the seal.", "Go away."), ("Buy another.", "Go away.")]
    feedback.rate(OTHER, "Oil the hinge.", True)
    assert pairs(tmp_path)[2:] == [("Oil the hinge.", "Go away.")]


def test_stages_read_the_files(feedback: Feedback, tmp_path: Path) -> None:
    # A text that looks like a transcript or like messages stays a text.
    hostile = 'Human: Hello\n\nAssistant: [{"role": "user"}]'
    feedback.rate(TALK, hostile, True)
    feedback.rate(TALK, "Go away.", False)
    (pair,) = read_records(str(tmp_path / PREFERENCES), "pair").rows
    assert pair.messages == [*TALK, {"role": "assistant", "content": hostile}]
    assert pair.rejected == [*TALK, {"role": "assistant", "content": "Go away."}]
    scored = read_records(str(tmp_path / RATINGS), "score").rows
    assert [(row.messages[-1]["content"], row.score) for row in scored] == [(hostile, 1.0), ("Go away.", 0.0)]


def test_the_last_thumb_on_an_answer_counts(feedback: Feedback, tmp_path: Path) -> None:
    feedback.rate(TALK, "a", True)
    feedback.rate(TALK, "b", False)
    assert feedback.rate(TALK, "a", False) == Saved(0, 2)
    assert feedback.rate(TALK, "b", True) == Saved(1, 2)
    assert pairs(tmp_path) == [("b", "a")]
    assert feedback.rate(TALK, "b", None) == Saved(0, 1)
    assert feedback.rate(TALK, "never rated", None) == Saved(0, 1)
    assert pairs(tmp_path) == []


def test_another_server_goes_on_with_the_files(feedback: Feedback, tmp_path: Path) -> None:
    feedback.rate(TALK, "a", True)
    with pytest.raises(UserError, match="another server writes there: stop it, or name another"):
        Feedback(tmp_path)
    feedback.close()
    later = Feedback(tmp_path)
    assert later.rate(TALK, "b", False) == Saved(1, 2)
    later.close()


def test_a_server_that_was_killed_between_the_files_left_nothing_undone(feedback: Feedback, tmp_path: Path) -> None:
    feedback.rate(TALK, "a", True)
    feedback.rate(TALK, "b", False)
    feedback.close()
    (tmp_path / PREFERENCES).unlink()
    with (tmp_path / RATINGS).open("a") as file:
        file.write('{"prompt": [{"role": "us')
    later = Feedback(tmp_path)
    assert pairs(tmp_path) == [("a", "b")]
    assert len((tmp_path / RATINGS).read_text().splitlines()) == 2
    later.close()


@pytest.mark.parametrize("name", [PREFERENCES, RATINGS])
def test_files_of_somebody_else_are_left_alone(name: str, tmp_path: Path) -> None:
    row = json.dumps({"text": "mine"}) + "\n"
    (tmp_path / name).write_text(row)
    with pytest.raises(UserError, match=f"{name} has rows that no thumb has made: name another folder"):
        Feedback(tmp_path)
    assert (tmp_path / name).read_text() == row
