"""What people have chosen, and the rows of a file of labels.

A choice of the best of N answers is N - 1 rows, each with `prompt`, `chosen` and `rejected`, which `stage=reward` and
`stage=dpo` read. Every other choice is one row with the answers, and with a `verdict` by which those stages leave it
out (`data.verdicts`). `label` says the same about all rows: who has chosen what, when, and how long it took.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

from lightning_rlhf.data.verdicts import REPEAT, Verdict
from lightning_rlhf.web.label.items import Item
from lightning_rlhf.web.label.journal import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a person says about an item.

    Attributes:
        id: Identifies the choice.
        item: The item.
        person: Name of the person.
        round: 0, or 1 if the person was asked a second time to measure consistency.
        verdict: What the person says.
        best: Place of the best answer in the item, if one is better.
        shown: Places of the answers in the item, in the order in which the page showed them.
        strength: By how much the best is better: 1 slightly, 2 clearly, 3 much; None if the person does not say.
        edited: A better answer that the person has written, or an empty text.
        comment: A comment, or an empty text.
        seconds: Time from the question to the choice.
        time: When, in ISO 8601 and UTC.
    """

    id: str
    item: str
    person: str
    round: int
    verdict: Verdict
    best: int | None
    shown: tuple[int, ...]
    strength: int | None = None
    edited: str = ""
    comment: str = ""
    seconds: float
    time: str

    @property
    def num_rows(self) -> int:
        """The number of its rows in a file."""
        return len(self.shown) - 1 if self.best is not None and self.round == 0 else 1


def rows_of(choice: Choice, item: Item) -> list[Row]:
    """Makes the rows of a choice for a file of labels."""
    label = asdict(choice) | {"sources": [answer.source for answer in item.answers], "place": item.place}
    common: Row = {"prompt": item.prompt, **({"tools": item.tools} if item.tools else {})}
    if choice.best is None or choice.round:
        answers = [answer.text for answer in item.answers]
        verdict = REPEAT if choice.round else choice.verdict
        return [{**common, "verdict": verdict, "answers": answers, "label": label}]
    strength = {} if choice.strength is None else {"strength": choice.strength}
    return [
        {
            **common,
            "chosen": _turn(item.answers[choice.best].text),
            "rejected": _turn(answer.text),
            **strength,
            "verdict": choice.verdict,
            "label": label,
        }
        for place, answer in enumerate(item.answers)
        if place != choice.best
    ]


def demonstrations_of(rows: Iterable[Row]) -> list[Row]:
    """Makes demonstrations, which `stage=sft` reads, of the answers that people have written.

    Args:
        rows: Rows of a file of labels.
    """
    return [
        {
            **{name: row[name] for name in ("prompt", "tools") if name in row},
            "completion": _turn(first["edited"]),
            "label": {name: first[name] for name in ("id", "item", "person", "time")},
        }
        for first, (row, *_) in _grouped(rows)
        if first["edited"]
    ]


def choices_in(rows: Sequence[Row]) -> list[Choice]:
    """Reads the choices of a file of labels. A choice whose rows are not complete was never confirmed, and is left out.

    Raises:
        KeyError: If a row has been written by something else.
    """
    names = {field.name for field in fields(Choice)}
    choices = []
    for label, group in _grouped(rows):
        choice = Choice(**{name: label[name] for name in names} | {"shown": tuple(label["shown"])})
        if choice.num_rows == len(group):
            choices.append(choice)
    return choices


def rows_without(rows: Sequence[Row], choice: str) -> list[Row]:
    """Leaves out the rows of a choice."""
    return [row for row in rows if row["label"]["id"] != choice]


def _grouped(rows: Iterable[Row]) -> Iterator[tuple[dict[str, Any], list[Row]]]:
    """Yields the label of each choice with its rows, which are neighbours."""
    for _, group in groupby(rows, key=lambda row: row["label"]["id"]):
        some = list(group)
        yield some[0]["label"], some


def _turn(text: str) -> list[dict[str, str]]:
    # A message, because a text that looks like messages would be read as messages.
    return [{"role": "assistant", "content": text}]
