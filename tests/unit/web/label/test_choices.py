"""The rows of a file of labels, as the stages read them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.web.label.choices import Choice, choices_in, demonstrations_of, rows_of
from lightning_rlhf.web.label.items import Answer, Item, items_of_pairs

MakeItem, MakeChoice = Callable[..., Item], Callable[..., Choice]


def records(tmp_path: Path, rows: list[Any], need: Any, **reading: Any) -> list[tuple[str, ...]]:
    """Reads rows as a stage does, and returns the texts of the answers."""
    (tmp_path / "read.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_records(str(tmp_path / "read.jsonl"), need, reading=Reading(**reading)).rows
    return [tuple(turns[-1]["content"] for turns in (one.messages, one.rejected) if turns is not None) for one in found]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_best_of_n_answers_is_better_than_each_other(
    count: int, make_item: MakeItem, make_choice: MakeChoice, tmp_path: Path
) -> None:
    shown = tuple(range(count))
    rows = rows_of(make_choice("item7", best=1, shown=shown), make_item(7, count))
    others = [place for place in range(count) if place != 1]
    assert records(tmp_path, rows, "pair") == [("answer 1 to 7", f"answer {place} to 7") for place in others]


def test_only_choices_of_a_better_answer_are_pairs(
    make_item: MakeItem, make_choice: MakeChoice, tmp_path: Path
) -> None:
    choices = [
        make_choice("item0"),
        *(make_choice("item1", person, verdict=person, best=None) for person in ("tie", "both_bad", "skip")),
        make_choice("item0", id="again", round=1, best=1),
    ]
    rows = [row for choice in choices for row in rows_of(choice, make_item(int(choice.item[-1])))]
    assert len(rows) == 5
    assert records(tmp_path, rows, "pair") == [("answer 0 to 0", "answer 1 to 0")]
    assert [row["answers"] for row in rows if "answers" in row][0] == ["answer 0 to 1", "answer 1 to 1"]


def test_a_strength_is_a_margin_if_the_user_says_so(
    make_item: MakeItem, make_choice: MakeChoice, tmp_path: Path
) -> None:
    rows = rows_of(make_choice("item0", strength=3), make_item(0)) + rows_of(make_choice("item1"), make_item(1))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for columns, margins in ((None, [None, None]), ({"margin": "strength"}, [3.0, None])):
        found = read_records(str(tmp_path / "a.jsonl"), "pair", reading=Reading(columns=columns)).rows
        assert [record.margin for record in found] == margins


def test_an_answer_that_looks_like_messages_is_read_as_text(make_choice: MakeChoice, tmp_path: Path) -> None:
    strange = ('[{"role": "user", "content": "x"}]', "Human: a\n\nAssistant: b")
    item = Item("i", [{"role": "user", "content": "Why?"}], tuple(Answer(text, "m") for text in strange), "p:1")
    assert records(tmp_path, rows_of(make_choice("i"), item), "pair") == [strange]


def test_an_edited_answer_is_a_demonstration(make_item: MakeItem, make_choice: MakeChoice, tmp_path: Path) -> None:
    choices = [
        make_choice("item0", edited="mine", shown=(0, 1, 2)),
        make_choice("item1", verdict="both_bad", best=None, edited="better than both"),
        make_choice("item2"),
        make_choice("item0", id="again", round=1, edited="once more"),
    ]
    rows = [row for choice in choices for row in rows_of(choice, make_item(int(choice.item[-1]), len(choice.shown)))]
    assert records(tmp_path, demonstrations_of(rows), "completion") == [
        ("mine",),
        ("better than both",),
        # Whoever is asked again does not know it, and may write a better answer this time.
        ("once more",),
    ]


def test_choices_are_read_as_they_were_written(make_item: MakeItem, make_choice: MakeChoice) -> None:
    choices = [
        make_choice("item0", shown=(2, 0, 1), best=2, strength=1, comment="c", edited="e"),
        make_choice("item1", "bob", verdict="tie", best=None),
        make_choice("item0", "ann", id="again", round=1),
    ]
    rows = [row for one in choices for row in rows_of(one, make_item(int(one.item[-1]), len(one.shown)))]
    assert choices_in(json.loads(json.dumps(rows))) == choices


def test_a_choice_of_which_rows_are_missing_was_never_confirmed(make_item: MakeItem, make_choice: MakeChoice) -> None:
    first, second = make_choice("item0"), make_choice("item1", shown=(0, 1, 2))
    rows = rows_of(first, make_item(0)) + rows_of(second, make_item(1, 3))[:1]
    assert choices_in(rows) == [first]


def test_items_of_a_file_of_pairs_hide_which_answer_the_file_prefers(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*pairs, pairs[0]]))
    items = list(items_of_pairs(read_records(str(tmp_path / "a.jsonl"), "pair").rows))
    assert len({item.id for item in items}) == len(items) == 40
    first = [item.answers[0].source for item in items]
    assert 10 < first.count("chosen") < 30
    for item in items:
        assert {answer.source: answer.text.split()[0] for answer in item.answers} == {
            "chosen": "good",
            "rejected": "bad",
        }
