"""The samples that a page holds for its browser."""

from pathlib import Path

import pytest
from run_folders import held_out, rollout, write_run

from lightning_rlhf.report import browser as browser_module
from lightning_rlhf.report.browser import browser
from lightning_rlhf.report.read import read_run


def test_a_sample_has_its_place_in_the_training_and_its_measures_to_sort_by_and_to_show(tmp_path: Path) -> None:
    lines = [held_out(3, 4, "long", score=1.23456789, kl=0.5, length=12, finish_reason="length"), rollout(2, "r")]
    found = browser(read_run(write_run(tmp_path, samples=lines)))
    assert found is not None
    answer, sampled = found.data["samples"]
    assert answer == {
        "stage": 0,
        "phase": "evaluation",
        "iteration": 4,
        "row": 3,
        "prompt": 0,
        "response": "long",
        "cut": True,
        "measures": {"score": (1.23457, "1.23"), "kl": (0.5, "0.5"), "length": (12.0, "12")},
    }
    assert (sampled["row"], sampled["measures"], sampled["cut"]) == (None, {}, False)
    assert found.data["prompts"] == [[["user", "Prompt 3?"]], [["user", "Rollout?"]]]
    assert list(found.measures) == ["score", "kl", "length"]
    assert (found.iterations, found.phases) == ([2, 4], ["evaluation", "rollout"])


def test_an_answer_that_a_resumed_run_wrote_again_is_there_once(tmp_path: Path) -> None:
    lines = [held_out(0, 1, "old"), rollout(1, "a"), held_out(0, 1, "new"), rollout(1, "b")]
    found = browser(read_run(write_run(tmp_path, samples=lines)))
    assert found is not None
    assert [row["response"] for row in found.data["samples"]] == ["new", "a", "b"]
    assert "of" not in found.note.split()


def test_a_page_that_would_be_too_large_keeps_whole_rows_spread_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each answer counts for 10 characters, and 5 of 10 rows with their two answers fit into 100 characters.
    monkeypatch.setattr(browser_module, "_MAX_PAGE", 100)
    lines = [held_out(row, at, "12345", "Hello") for at in (1, 2) for row in range(10)]
    found = browser(read_run(write_run(tmp_path, samples=lines)))
    assert found is not None
    assert [(row["row"], row["iteration"]) for row in found.data["samples"]] == [
        (row, at) for row in (0, 2, 4, 7, 9) for at in (1, 2)
    ]
    assert "These are 10 of 20, spread evenly; samples.jsonl has all." in found.note


def test_a_run_without_samples_has_no_browser(tmp_path: Path) -> None:
    assert browser(read_run(write_run(tmp_path))) is None
