"""Verdicts of people: writes the answers of two models as blind pairs, and reads what people said about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.sources import held_out_source
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.evaluation.win_rates import LOSS, TIE, WIN
from lightning_rlhf.saving import write_rows
from lightning_rlhf.seeding import EVALUATION, permutation

BLIND_PAIRS = "blind_pairs.jsonl"
# Names the random numbers that decide which answer comes first, and those of the order of the rows.
_SIDES, _ORDER = 1_000_001, 1_000_002


def write_blind_pairs(folder: Path, rows: Sequence[Answered], seed: int) -> int:
    """Writes a file of pairs for `lightning-rlhf label`, in which nothing tells which model wrote an answer.

    Which answer stands under `chosen` is random, which `blind` says, and so is the order of the rows. Equal answers are
    left out, since nobody could prefer one of them.

    Args:
        folder: Folder of the evaluation.
        rows: The answers.
        seed: Seed of the order.

    Returns:
        The number of pairs.
    """
    different = [number for number, row in enumerate(rows) if row.a.text != row.b.text]
    # Half of the rows are swapped, so that neither model has an advantage in total.
    sides = permutation(len(different), seed, EVALUATION, _SIDES)
    pairs = []
    for place in permutation(len(different), seed, EVALUATION, _ORDER):
        row = rows[different[place]]
        first, second = (row.b, row.a) if sides[place] % 2 else (row.a, row.b)
        pair = {"id": different[place], "prompt": row.messages, "chosen": first.text, "rejected": second.text}
        pairs.append(pair | {"blind": True})
    write_rows(folder / BLIND_PAIRS, pairs)
    return len(different)


class PeopleVerdicts(NamedTuple):
    """What people say about the answers."""

    verdicts: list[float | None]
    """The mean verdict on each row; a tie for equal answers, None where nobody has decided."""
    both_bad: list[int]
    """Rows of which somebody said that both answers are bad, which counts as a tie."""
    labels: int
    """Number of labels that were used."""


def people_verdicts(labels: str, rows: Sequence[Answered]) -> PeopleVerdicts:
    """Reads what people said about the blind pairs.

    A label belongs to the rows with its prompt and its two answers. A label with `verdict: tie` or `both_bad` is a tie;
    skipped questions, and those that were asked a second time to measure consistency, do not count.

    Args:
        labels: File of labels, or of pairs that somebody has chosen from in another way.
        rows: The answers.

    Raises:
        UserError: If the file cannot be read, or a label belongs to no row.
    """
    places: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault(_key(row.messages, [row.a.text, row.b.text]), []).append(number)
    found: dict[int, list[float]] = {}
    both_bad: set[int] = set()
    used = 0
    for label, place in held_out_source(labels, Reading()).rows():
        if isinstance(label, WrongRow):
            raise UserError(f"labels={labels}: {place}: {label}")
        if label.get("verdict") in ("skip", "repeat"):
            continue
        answers = label.get("answers") or [label.get("chosen"), label.get("rejected")]
        texts = [_text(answer) for answer in answers]
        numbers = places.get(_key(label.get("prompt"), texts))
        if numbers is None:
            raise UserError(
                f"labels={labels}: {place}: no row of the answers has this prompt with these two answers: give the "
                f"folder whose {BLIND_PAIRS} was labelled as answers=FOLDER"
            )
        used += 1
        for number in numbers:
            tied = label.get("verdict") in ("tie", "both_bad")
            verdict = TIE if tied else WIN if texts[0] == rows[number].a.text.strip() else LOSS
            found.setdefault(number, []).append(verdict)
        if label.get("verdict") == "both_bad":
            both_bad.update(numbers)
    verdicts = [
        TIE if row.a.text == row.b.text else sum(found[number]) / len(found[number]) if number in found else None
        for number, row in enumerate(rows)
    ]
    return PeopleVerdicts(verdicts, sorted(both_bad), used)


def _key(prompt: object, answers: Sequence[str | None]) -> object:
    """Identifies a prompt with its answers, whichever comes first."""
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    said = tuple((turn.get("role"), str(turn.get("content")).strip()) for turn in turns if isinstance(turn, Mapping))
    return said, frozenset((answer or "").strip() for answer in answers)


def _text(answer: Any) -> str | None:
    """The text of an answer, which may be a list of messages."""
    if isinstance(answer, list | tuple) and answer and isinstance(answer[-1], Mapping):
        answer = answer[-1].get("content")
    return answer.strip() if isinstance(answer, str) else None
