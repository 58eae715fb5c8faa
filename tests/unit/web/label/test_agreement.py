"""Agreement between people, and habits of one person."""

from collections.abc import Callable
from typing import Any

import pytest

from lightning_rlhf.web.label.agreement import agreements, habits, team_agreement, wins
from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.items import Answer, Item

MakeChoice, MakeItem = Callable[..., Choice], Callable[..., Item]


def test_kappa_of_two_people_by_hand(make_choice: MakeChoice, make_item: MakeItem) -> None:
    # ann says a a a b b tie bad, bob says a a b b a tie tie, and both say something else about one item each.
    def said(person: str, words: list[Any]) -> list[Choice]:
        return [
            make_choice(
                f"item{n}", person, **({"best": word} if isinstance(word, int) else {"verdict": word, "best": None})
            )
            for n, word in enumerate(words)
            if word is not None
        ]

    ann = said("ann", [0, 0, 0, 1, 1, "tie", "both_bad", 0, None])
    bob = said("bob", [0, 0, 1, 1, 0, "tie", "tie", None, 1])
    items = {f"item{n}": make_item(n) for n in range(9)}
    (found,) = agreements([("ann", ann), ("bob", bob)], items)
    assert (found.people, found.shared, found.agreed) == (("ann", "bob"), 7, 4)
    # Observed 4/7. By chance: a 3/7 · 3/7, b 2/7 · 2/7, tie 1/7 · 2/7, bad 1/7 · 0: (9 + 4 + 2) / 49 = 15/49.
    assert found.kappa == pytest.approx((4 / 7 - 15 / 49) / (1 - 15 / 49))


def test_kappa_of_a_team_by_hand(make_choice: MakeChoice) -> None:
    # Items 0 to 3 are answered by all: a a a, a a b, b b b, a b b. Only ann and bob have answered item 4.
    said = {"ann": [0, 0, 1, 0, 0], "bob": [0, 0, 1, 1, 0], "cid": [0, 1, 1, 1]}
    people = [
        (person, [make_choice(f"item{n}", person, best=best) for n, best in enumerate(choices)])
        for person, choices in said.items()
    ]
    found = team_agreement(people)
    assert found is not None
    assert (found.shared, found.agreed) == (4, 2)
    # Of the three pairs of people, 3, 1, 3 and 1 agree, which is 2/3. By chance: half of the ratings are a, so 1/2.
    assert found.kappa == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))
    assert team_agreement(people[:2]) is None
    assert team_agreement([*people, ("dan", [])]) is None


def test_a_team_that_always_says_one_thing_has_no_kappa(make_choice: MakeChoice) -> None:
    people = [(person, [make_choice(f"item{n}", person) for n in range(3)]) for person in ("ann", "bob", "cid")]
    assert team_agreement(people) == (3, 3, None)


def test_people_who_always_say_one_thing_have_no_kappa(make_choice: MakeChoice, make_item: MakeItem) -> None:
    people = [(person, [make_choice(f"item{n}", person) for n in range(3)]) for person in ("ann", "bob")]
    (found,) = agreements(people, {f"item{n}": make_item(n) for n in range(3)})
    assert (found.shared, found.agreed, found.kappa) == (3, 3, None)


def test_skips_and_repeats_are_not_compared(make_choice: MakeChoice, make_item: MakeItem) -> None:
    ann = [make_choice("item0"), make_choice("item1", verdict="skip", best=None)]
    bob = [make_choice("item1", "bob"), make_choice("item0", "bob", round=1)]
    assert agreements([("ann", ann), ("bob", bob)], {f"item{n}": make_item(n) for n in range(2)}) == []


def test_people_are_compared_with_the_labels_of_a_file_of_pairs(make_choice: MakeChoice, make_item: MakeItem) -> None:
    sides = {"item0": ("chosen", "rejected"), "item1": ("rejected", "chosen"), "item2": ("rejected", "chosen")}
    items = {
        name: make_item(0, id=name, answers=tuple(Answer(side, side) for side in pair)) for name, pair in sides.items()
    }
    ann = [make_choice("item0"), make_choice("item1"), make_choice("item2", best=1)]
    (found,) = agreements([("ann", ann)], items)
    assert (found.people, found.shared, found.agreed) == (("ann", "the file"), 3, 2)


def test_habits_count_repeats_that_got_the_same_answer(make_choice: MakeChoice) -> None:
    choices = [
        make_choice("item0", shown=(1, 0), best=0),
        make_choice("item1", shown=(0, 1), best=0),
        make_choice("item2", verdict="tie", best=None),
        make_choice("item0", id="x", round=1, shown=(0, 1), best=0),
        make_choice("item1", id="y", round=1, shown=(0, 1), best=1),
        make_choice("item2", id="z", round=1, verdict="skip", best=None),
    ]
    found = habits("ann", choices)
    assert (found.choices, found.repeats, found.kept) == (6, 2, 1)
    # Of four better answers, those to item 1 and item 0 again stood first.
    assert found.first == 0.5
    assert found.counts == {"better": 4, "tie": 1, "skip": 1}


def test_wins_are_counted_only_between_different_models(make_choice: MakeChoice, make_item: MakeItem) -> None:
    same = make_item(3, answers=(Answer("x", "one"), Answer("y", "one")))
    items = {**{f"item{n}": make_item(n) for n in range(3)}, "item3": same}
    choices = [
        make_choice("item0", best=1),
        make_choice("item1", best=1),
        make_choice("item2", verdict="tie", best=None),
        make_choice("item3"),
        make_choice("item0", id="x", round=1, best=0),
    ]
    assert wins(choices, items) == {"model 0": 0, "model 1": 2}
