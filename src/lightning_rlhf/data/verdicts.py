"""What people say about answers in a file of labels, and which rows of such a file prefer no answer."""

from collections.abc import Mapping
from typing import Literal

Verdict = Literal["better", "tie", "both_bad", "skip"]
"""What a person says about the answers to a prompt: one is better, none is better, all are bad, or nothing."""

REPEAT = "repeat"
"""In place of a verdict: the question was asked before, to measure how consistent a person is."""

_LEFT_OUT = {
    "tie": "ties left out",
    "both_bad": "rows whose answers are all bad left out",
    "skip": "skipped questions left out",
    REPEAT: "repeated questions left out",
}

_OF_THE_PAGE = frozenset({"label", "verdict", "answers"})


def columns_of_labels(row: Mapping[str, object]) -> frozenset[str]:
    """Names the columns that a file of labels has for people and for later labelling; none for any other row.

    Args:
        row: A row as it was read from its file.
    """
    label = row.get("label")
    return _OF_THE_PAGE if isinstance(label, Mapping) and {"item", "person"} <= label.keys() else frozenset()


def decides_nothing(row: object) -> str | None:
    """Says why a row of a file of labels teaches no preference; None if it does, or if it is any other row.

    The loss of Bradley and Terry needs a better and a worse answer, and a file of labels also has rows without them.

    Args:
        row: A row as it was read from its file.
    """
    if not isinstance(row, Mapping) or "chosen" in row:
        return None
    verdict = row.get("verdict")
    return _LEFT_OUT.get(verdict) if isinstance(verdict, str) else None
