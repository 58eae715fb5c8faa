"""Rows of conversations, and what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.formats import read_records
from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.data_files import FILES, DataFiles, Filter, Limits
from lightning_rlhf.synthesis.duplicates import Duplicates
from lightning_rlhf.synthesis.templates import Templates


def conversation(*texts: str) -> list[Any]:
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)]


def filtered(min_words: int = 1, max_words: int | None = None, near: float | None = None, **texts: str) -> Filter:
    return Filter(Templates(**texts), Limits(min_words, max_words), near)


def read(folder: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


TALK = conversation("Hello", "Hi there.", "Why?", "Because.")


def test_a_conversation_becomes_one_demonstration_and_a_prompt_and_an_answer_for_each_exchange() -> None:
    rows = filtered(actor="Be brief.", rlhf="Be kind.").rows(TALK, None)
    brief, kind = ({"role": "system", "content": text} for text in ("Be brief.", "Be kind."))
    assert rows == {
        "demonstrations": [{"messages": [brief, *TALK]}],
        "prompts": [{"prompt": [kind, *TALK[:1]]}, {"prompt": [kind, *TALK[:3]]}],
        "unscored": [
            {"prompt": [brief, *TALK[:1]], "completion": "Hi there."},
            {"prompt": [brief, *TALK[:3]], "completion": "Because."},
        ],
    }


def test_the_stages_read_the_files(tmp_path: Path) -> None:
    files = DataFiles(tmp_path, filtered(actor="Be brief."), [])
    files.add(TALK, None)
    files.close()
    assert files.counts == {"demonstrations": 1, "prompts": 2, "unscored": 2}
    (demonstration,) = read_records(str(tmp_path / "demonstrations.jsonl"), "completion").rows
    assert [turn["role"] for turn in demonstration.messages] == ["system", "user", "assistant", "user", "assistant"]
    prompts = read_records(str(tmp_path / "prompts.jsonl"), "prompt").rows
    assert [len(row.messages) for row in prompts] == [1, 3]
    answers = read_records(str(tmp_path / "unscored.jsonl"), "completion").rows
    assert [row.messages[-1]["content"] for row in answers] == ["Hi there.", "Because."]


def test_files_that_are_made_anew_are_those_that_were_appended_to(tmp_path: Path) -> None:
    talks = [TALK, conversation("Hello", "Hi there."), TALK, conversation("Tea?", "Yes, please.")]
    first = DataFiles(tmp_path / "one", filtered(), [])
    for talk in talks:
        first.add(talk, None)
    first.close()
    known = [{"messages": talk, "ended": None} for talk in talks[:3]]
    second = DataFiles(tmp_path / "two", filtered(), known)
    second.add(talks[3], None)
    second.close()
    assert all(read(tmp_path / "one", name) == read(tmp_path / "two", name) for name in FILES)
    assert (first.counts, first.dropped) == (second.counts, second.dropped)


def test_a_part_of_a_row_that_a_kill_has_left_is_gone(tmp_path: Path) -> None:
    DataFiles(tmp_path, filtered(), [{"messages": TALK, "ended": None}]).close()
    file = tmp_path / "prompts.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"prompt": [{"ro')
    DataFiles(tmp_path, filtered(), [{"messages": TALK, "ended": None}]).close()
    assert file.read_bytes() == whole


def test_copies_are_left_out_and_counted() -> None:
    long = " ".join(f"word{number}" for number in range(40))
    near = conversation("Question", f"{long} end")
    some = filtered(near=0.8)
    assert some.rows(conversation("Question", long), None)
    assert not some.rows(conversation("question", f"{long}."), None)
    assert not some.rows(near, None)
    assert some.dropped == {
        "conversations equal to an earlier one": 1,
        "conversations nearly equal to an earlier one": 1,
        "prompts equal to an earlier one": 0,
    }
    # Without a threshold, only equal ones are copies.
    exact = filtered()
    assert exact.rows(conversation("Question", long), None)
    assert exact.rows(near, None)


def test_the_threshold_is_the_similarity_of_sets_of_three_words() -> None:
    # Of 18 and 18 runs of three words, 15 are shared when one of the last words differs: 15 / 21 = 0.71.
    words = [f"w{number}" for number in range(20)]
    other = [*words[:17], "x", *words[18:]]
    # 18 runs each; those with place 17 differ: places 15, 16 and 17.
    assert Duplicates(0.6).kind(" ".join(words)) is None
    for threshold, expected in ((0.5, "nearly equal"), (0.9, None)):
        some = Duplicates(threshold)
        some.kind(" ".join(words))
        assert some.kind(" ".join(other)) == expected


def test_a_prompt_that_two_conversations_begin_with_is_kept_once() -> None:
    some = filtered()
    some.rows(TALK, None)
    rows = some.rows(conversation("Hello", "Good day.", "Why not?", "No idea."), None)
    assert [len(row["prompt"]) for row in rows["prompts"]] == [3]
    assert len(rows["unscored"]) == 2
    assert some.dropped["prompts equal to an earlier one"] == 1


@pytest.mark.parametrize(
    ("limits", "turns", "reason"),
    [
        ((2, None), 2, "conversations shortened before an answer that is too short"),
        ((1, 1), 0, "conversations shortened before an answer that is too long"),
        ((1, 2), 4, None),
    ],
)
def test_a_conversation_ends_before_an_answer_outside_the_limits(
    limits: tuple[int, int | None], turns: int, reason: str | None
) -> None:
    some = filtered(*limits)
    rows = some.rows(TALK, None)
    assert len(rows["demonstrations"][0]["messages"] if rows else []) == turns
    expected = {reason} if reason else set()
    assert set(+some.dropped) == expected | (set() if turns else {"conversations without an answer that could be kept"})


def test_conversations_that_ended_early_are_counted_by_the_reason() -> None:
    some = filtered()
    some.rows(TALK, "a turn of the user was empty")
    assert +some.dropped == {"conversations that ended early because a turn of the user was empty": 1}


@pytest.mark.parametrize(("smallest", "largest"), [(0, None), (3, 2)])
def test_limits_that_no_answer_fits_are_refused(smallest: int, largest: int | None) -> None:
    with pytest.raises(UserError, match=f"^min_answer_words={smallest}, max_answer_words={largest}: "):
        filtered(smallest, largest)


@pytest.mark.parametrize("similarity", [0, 1.5, -0.1])
def test_a_similarity_out_of_range_is_refused(similarity: float) -> None:
    with pytest.raises(UserError, match=rf"^near_duplicates={similarity}: must lie in \(0, 1\]"):
        Duplicates(similarity)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    some = Duplicates(0.5)
    some.kind("今日はとても良い天気ですね散歩に行きましょう")
    assert some.kind("今日はとても良い天気ですよ散歩に行きましょう") == "nearly equal"
    assert some.kind("明日は雨が降るので家で本を読みます") is None
