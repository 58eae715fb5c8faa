"""How much people agree with each other, and with themselves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from lightning_rlhf.report.kappa import cohens_kappa, fleiss_kappa
from lightning_rlhf.web.label.choices import Choice
from lightning_rlhf.web.label.items import Item

FILE = "the file"
"""Stands for the labels that a file of pairs had before."""

# What a choice is compared by: the place of the best answer in the item, or one of these.
_CLASSES = {"tie": 0, "both_bad": 1}


class Agreement(NamedTuple):
    """How two people agree on the items that both have answered."""

    people: tuple[str, str]
    shared: int
    """Number of the items."""
    agreed: int
    """Number of the items about which both say the same."""
    kappa: float | None
    """Cohen's κ, which is 0 where agreement is that of chance; None if both always say the same one thing."""


class TeamAgreement(NamedTuple):
    """How all people together agree on the items that each of them has answered."""

    shared: int
    """Number of the items."""
    agreed: int
    """Number of the items about which all say the same."""
    kappa: float | None
    """Fleiss' κ, which is 0 where agreement is that of chance; None if everybody always says the same one thing."""


class Habits(NamedTuple):
    """What a person's choices say about the person."""

    person: str
    choices: int
    repeats: int
    """Number of the questions that were repeated."""
    kept: int
    """Number of them that were answered as before."""
    first: float | None
    """Share of the better answers that the page showed first; with a random order, one divided by their number is
    expected."""
    counts: Mapping[str, int]
    """Number of choices by verdict."""


def agreements(people: Iterable[tuple[str, Sequence[Choice]]], items: Mapping[str, Item]) -> list[Agreement]:
    """Compares all people with each other, and with the earlier labels of a file of pairs.

    Args:
        people: Names with choices.
        items: All items by their ids.
    """
    said = {person: _said(choices) for person, choices in people}
    answered = set().union(*said.values())
    said[FILE] = {
        name: number + len(_CLASSES)
        for name in answered & items.keys()
        for number, answer in enumerate(items[name].answers)
        if answer.source == "chosen"
    }
    found = []
    for one, other in combinations(said, 2):
        shared = sorted(said[one].keys() & said[other].keys())
        if shared:
            first, second = [said[one][name] for name in shared], [said[other][name] for name in shared]
            agreed = sum(map(int.__eq__, first, second))
            found.append(Agreement((one, other), len(shared), agreed, _kappa(first, second)))
    return found


def team_agreement(people: Iterable[tuple[str, Sequence[Choice]]]) -> TeamAgreement | None:
    """Compares three or more people at once; None if there are fewer, or no item that all have answered.

    Args:
        people: Names with choices.
    """
    said = [_said(choices) for _, choices in people]
    if len(said) < 3 or not (shared := sorted(set.intersection(*map(set, said)))):
        return None
    ratings = [[one[name] for one in said] for name in shared]
    return TeamAgreement(len(shared), sum(len(set(row)) == 1 for row in ratings), _known(fleiss_kappa(ratings)))


def habits(person: str, choices: Sequence[Choice]) -> Habits:
    """Sums up the choices of a person."""
    before = _said(choices)
    again = [choice for choice in choices if choice.round and choice.verdict != "skip" and choice.item in before]
    better = [choice for choice in choices if choice.best is not None]
    verdicts = [choice.verdict for choice in choices]
    return Habits(
        person,
        len(choices),
        len(again),
        sum(_class_of(choice) == before[choice.item] for choice in again),
        sum(choice.shown[0] == choice.best for choice in better) / len(better) if better else None,
        {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
    )


def wins(choices: Iterable[Choice], items: Mapping[str, Item]) -> dict[str, int]:
    """Counts by source how often an answer was the best, where answers of several sources were compared.

    Args:
        choices: Choices of anybody; repeats do not count.
        items: All items by their ids.
    """
    counts: dict[str, int] = {}
    for choice in choices:
        answers = items[choice.item].answers if choice.item in items else ()
        if choice.round == 0 and len({answer.source for answer in answers}) > 1:
            for answer in answers:
                counts.setdefault(answer.source, 0)
            if choice.best is not None:
                counts[answers[choice.best].source] += 1
    return counts


def _said(choices: Iterable[Choice]) -> dict[str, int]:
    """The class of each item that a person has answered for the first time."""
    return {choice.item: _class_of(choice) for choice in choices if not choice.round and choice.verdict != "skip"}


def _class_of(choice: Choice) -> int:
    return _CLASSES[choice.verdict] if choice.best is None else choice.best + len(_CLASSES)


def _kappa(first: list[int], second: list[int]) -> float | None:
    return _known(cohens_kappa(first, second, max(*first, *second) + 1).value)


def _known(kappa: float) -> float | None:
    return None if math.isnan(kappa) else kappa
