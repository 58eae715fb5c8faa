"""Verdicts of people: writes the answers of two models as blind pairs, and reads what people said about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_rlhf.data.faults import WrongRow
from lightning_rlhf.data.sources import held_out_source
from lightning_rlhf.data.splits import Reading
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.answers import Answered
from lightning_rlhf.evaluation.win_rates import LOSS, TIE, WIN
from lightning_rlhf.saving import appearing, strict_json
from lightning_rlhf.seeding import EVALUATION, permutation

BLIND_PAIRS = "blind_pairs.jsonl"
# Names the random numbers that decide which answer comes first, and those of the order of the rows.
_SIDES, _ORDER = 1_000_001, 1_000_002


def write_blind_pairs(folder: Path, rows: Sequence[Answered], seed: int) -> int:
    """Writes a file of pairs for `lightning-rlhf label`, in which nothing tells which model wrote an answer.

    Which answer stands under `chosen` is random, and so is the order of the rows. Equal answers are left out, since
    nobody could prefer one of them.

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
    with appearing(folder / BLIND_PAIRS) as partial, partial.open("w", encoding="utf-8") as file:
        for place in permutation(len(different), seed, EVALUATION, _ORDER):
            row = rows[different[place]]
            first, second = (row.b, row.a) if sides[place] % 2 else (row.a, row.b)
            pair = {"id": different[place], "prompt": row.messages, "chosen": first.text, "rejected": second.text}
            file.write(strict_json(pair, ensure_ascii=False) + "\n")
    return len(different)


def people_verdicts(labels: str, rows: Sequence[Answered]) -> list[float | None]:
    """Reads what people said about the blind pairs.

    A row of the file belongs to the row of the answers that its `id` names. Of several labels for a row, the mean is
    the verdict. A label without a better answer is a tie; see `docs/evaluation.md` for the layout.

    Args:
        labels: File that `label` has written from the blind pairs.
        rows: The answers.

    Returns:
        A verdict on each row; a tie for equal answers, None where nobody has said anything.

    Raises:
        UserError: If the file cannot be read, or a row belongs to other answers.
    """
    found: dict[int, list[float]] = {}
    for row, place in held_out_source(labels, Reading()).rows():
        if isinstance(row, WrongRow):
            raise UserError(f"labels={labels}: {place}: {row}")
        number, verdict = _label(row, rows, f"labels={labels}: {place}")
        found.setdefault(number, []).append(verdict)
    return [
        TIE if row.a.text == row.b.text else sum(found[number]) / len(found[number]) if number in found else None
        for number, row in enumerate(rows)
    ]


def _label(label: Mapping[str, Any], rows: Sequence[Answered], place: str) -> tuple[int, float]:
    """The row that a label is about, and its verdict."""
    number = label.get("id")
    if not isinstance(number, int) or not 0 <= number < len(rows):
        raise UserError(f"{place}: id={number!r} is not a row of the answers: label the {BLIND_PAIRS} of this evaluation")
    row = rows[number]
    chosen, rejected = (_text(label.get(name)) for name in ("chosen", "rejected"))
    if {chosen, rejected} != {row.a.text.strip(), row.b.text.strip()}:
        raise UserError(
            f"{place}: the answers are not those of row {number} of this evaluation: give the folder whose "
            f"{BLIND_PAIRS} was labelled as answers="
        )
    if label.get("choice") in ("tie", "both_bad"):
        return number, TIE
    return number, WIN if chosen == row.a.text.strip() else LOSS


def _text(answer: Any) -> str | None:
    """The text of an answer, which may be a list of messages."""
    if isinstance(answer, list | tuple) and answer and isinstance(answer[-1], Mapping):
        answer = answer[-1].get("content")
    return answer.strip() if isinstance(answer, str) else None
