"""Who is asked what, and what becomes of the answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.web.label import desk as desk_module
from lightning_rlhf.web.label.book import Book
from lightning_rlhf.web.label.desk import AnsweredOtherwise
from lightning_rlhf.web.label.questions import Said


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def names(desk: Any, person: str, say: Callable[..., Any], count: int) -> list[str]:
    return [say(desk, person).item.id for _ in range(count)]


def test_everything_is_asked_once_and_then_nothing(make_desk: Any, say: Any) -> None:
    desk = make_desk(4)
    assert names(desk, "ann", say, 4) == ["item0", "item1", "item2", "item3"]
    assert desk.question("ann") is None


def test_a_question_stays_until_it_is_answered(make_desk: Any, say: Any) -> None:
    desk = make_desk(3)
    assert desk.question("ann") == desk.question("ann") == say(desk)
    assert desk.question("ann").item.id == "item1"


def test_a_choice_names_the_answer_that_was_shown_there(make_desk: Any, say: Any, out: Path) -> None:
    desk = make_desk(30, count=4)
    orders = set()
    for pick in (0, 1, 2, 3) * 5:
        question = say(desk, pick=pick)
        orders.add(question.shown)
        rows = [row for row in lines(out) if row["label"]["item"] == question.item.id]
        assert {row["chosen"][0]["content"] for row in rows} == {question.item.answers[question.shown[pick]].text}
    assert len(orders) > 10


def test_several_people_share_the_work(make_desk: Any, say: Any) -> None:
    desk = make_desk(6)
    # Both look before anybody answers.
    assert (desk.question("ann").item.id, desk.question("bob").item.id) == ("item0", "item1")
    asked = [say(desk, person).item.id for person in ("ann", "bob", "bob", "ann", "bob", "ann")]
    assert sorted(asked) == [f"item{n}" for n in range(6)]
    assert desk.question("ann") is desk.question("bob") is None


def test_a_share_of_the_items_is_asked_of_everybody(make_desk: Any, say: Any) -> None:
    desk = make_desk(60, shared=0.3)
    first = names(desk, "ann", say, 60)
    common = []
    while desk.question("bob"):
        common.append(say(desk, "bob").item.id)
    assert set(common) < set(first)
    assert 8 < len(common) < 30
    # A third person gets the same ones.
    third = []
    while desk.question("cid"):
        third.append(say(desk, "cid").item.id)
    assert third == common


def test_what_one_person_skips_another_is_asked(make_desk: Any, say: Any) -> None:
    desk = make_desk(1)
    say(desk, "ann", "skip")
    assert desk.question("ann") is None
    assert desk.question("bob").item.id == "item0"


def test_a_question_of_somebody_who_has_left_is_asked_of_others(
    make_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(1)
    desk.question("ann")
    assert desk.question("bob") is None
    monkeypatch.setattr(desk_module, "_HELD_SECONDS", -1.0)
    assert desk.question("bob").item.id == "item0"


def test_a_server_that_is_started_again_asks_nothing_twice_and_nothing_else(
    make_desk: Any, say: Any, out: Path
) -> None:
    whole = make_desk(30, count=3, repeats=0.3, seed=3)
    expected = [say(whole) for _ in range(36)]
    for file in out.parent.glob("*.jsonl"):
        file.unlink()
    asked = []
    for _ in range(12):
        desk = make_desk(30, count=3, repeats=0.3, seed=3)
        asked += [say(desk) for _ in range(3)]
    assert asked == expected
    assert len({(question.item.id, question.round) for question in asked}) == 36


def test_repeats_are_earlier_items_in_an_order_of_their_own(make_desk: Any, say: Any) -> None:
    desk = make_desk(100, count=4, repeats=0.25)
    asked = [say(desk) for _ in range(100)]
    repeats = [(place, question) for place, question in enumerate(asked) if question.round]
    assert 12 < len(repeats) < 38
    earlier = {question.item.id: (place, question) for place, question in enumerate(asked) if not question.round}
    assert all(place - earlier[question.item.id][0] > 10 for place, question in repeats)
    assert sum(question.shown != earlier[question.item.id][1].shown for _, question in repeats) > len(repeats) / 2
    # The progress counts them like other questions.
    assert desk.progress("ann").done == 100


def test_an_answer_that_is_sent_twice_counts_once(make_desk: Any, out: Path) -> None:
    desk = make_desk(2)
    question = desk.question("ann")
    first = desk.answer("ann", question.item.id, 0, Said("better", 0))
    assert desk.answer("ann", question.item.id, 0, Said("better", 0)) == first
    assert len(lines(out)) == 1


@pytest.mark.parametrize(
    "later", [Said("better", 1), Said("skip"), Said("better", 0, strength=2), Said("better", 0, comment="hm")]
)
def test_the_first_of_two_answers_stays_and_the_other_is_refused(make_desk: Any, later: Said, out: Path) -> None:
    desk = make_desk(2)
    question = desk.question("ann")
    desk.answer("ann", question.item.id, 0, Said("better", 0))
    kept = out.read_bytes()
    with pytest.raises(AnsweredOtherwise):
        desk.answer("ann", question.item.id, 0, later)
    assert out.read_bytes() == kept
    assert desk.question("ann").item.id == "item1"


def test_undo_takes_back_one_choice_after_another(make_desk: Any, say: Any, out: Path) -> None:
    desk = make_desk(4, count=3)
    say(desk)
    kept = out.read_bytes()
    say(desk, edited="mine")
    say(desk, "bob")
    say(desk, pick=2, comment="hm")
    last = desk.last("ann")
    assert desk.undo("ann", last).comment == "hm"
    assert desk.question("ann").item.id == "item3"
    # The page may repeat what it has sent, and bob's choice is not ann's to undo.
    assert desk.undo("ann", last) is None
    assert desk.undo("ann", desk.last("bob")) is None
    assert desk.undo("ann", desk.last("ann")).edited == "mine"
    assert desk.question("ann").item.id == "item1"
    assert out.read_bytes().startswith(kept)
    assert {row["label"]["person"] for row in lines(out)[2:]} == {"bob"}
    assert lines(out.with_suffix(".edited.jsonl")) == []
    assert desk.progress("ann").done == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said("better"), "verdict=better with pick=None"),
        (Said("tie", 0), "verdict=tie with pick=0"),
        (Said("better", 2), "pick=2: there are 2 answers"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(make_desk: Any, said: Said, words: str, out: Path) -> None:
    desk = make_desk(1)
    with pytest.raises(ValueError, match=words):
        desk.answer("ann", "item0", 0, said)
    with pytest.raises(KeyError):
        desk.answer("ann", "item9", 0, Said("tie"))
    assert lines(out) == []


def test_a_choice_that_cannot_be_written_is_not_made(
    make_desk: Any, monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    desk = make_desk(2)
    question = desk.question("ann")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        desk.answer("ann", question.item.id, 0, Said("better", 0))
    monkeypatch.undo()
    assert desk.question("ann") == question
    assert desk.last("ann") is None
    assert out.read_bytes() == b""


def test_progress_counts_what_a_person_may_still_be_asked(make_desk: Any, say: Any) -> None:
    desk = make_desk(6, to_come=lambda: 10)
    assert desk.progress("ann")[:2] == (0, 16)
    say(desk, "bob")
    say(desk, "ann", "skip")
    assert desk.progress("ann")[:2] == (1, 14)
    # bob may be asked what ann has skipped.
    assert desk.progress("bob")[:2] == (1, 15)


def test_items_are_open_until_somebody_has_them(make_desk: Any, say: Any) -> None:
    desk = make_desk(6)
    assert desk.num_open() == 6
    say(desk, "bob")
    # Whoever skips everything does not keep the models from answering further prompts, and nobody waits for somebody
    # who thinks.
    say(desk, "ann", "skip")
    assert desk.num_open() == 4
    # cid is asked what ann has skipped, and dan something new.
    assert (desk.question("cid").item.id, desk.question("dan").item.id) == ("item1", "item2")
    assert desk.num_open() == 3


def test_what_a_killed_server_has_left_half_done_is_mended(make_desk: Any, say: Any, out: Path) -> None:
    desk = make_desk(3, count=3)
    say(desk, edited="mine")
    say(desk)
    edited = out.with_suffix(".edited.jsonl")
    expected, demonstrations = out.read_bytes(), edited.read_bytes()
    say(desk)
    # One of the two rows of the last choice is on the disk, and half of the other; the demonstration is missing.
    out.write_bytes(expected + out.read_bytes()[len(expected) :][:-40])
    edited.write_bytes(b"")
    again = make_desk(3, count=3)
    assert out.read_bytes() == expected
    assert edited.read_bytes() == demonstrations
    assert again.question("ann").item.id == "item2"


def test_items_are_written_once(make_desk: Any, out: Path) -> None:
    make_desk(3)
    make_desk(3)
    assert [row["id"] for row in lines(out.with_suffix(".items.jsonl"))] == ["item0", "item1", "item2"]


def test_a_file_that_the_page_has_not_written_is_refused(out: Path) -> None:
    out.write_text('{"prompt": "Why?", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(UserError, match="there is a row that the page has not written .* read the file as pairs=FILE"):
        Book(out)
    with pytest.raises(UserError, match=r"out=.*\.json: name a file whose name ends in \.jsonl"):
        Book(out.with_suffix(".json"))


def test_a_file_has_one_server(out: Path) -> None:
    book = Book(out)
    with pytest.raises(UserError, match="another server writes this file: stop it, or name another"):
        Book(out)
    book.close()
    Book(out).close()
    (out.parent / "file").touch()
    with pytest.raises(UserError, match=r"out=.*: cannot be written"):
        Book(out.parent / "file" / "labels.jsonl")
