"""UltraFeedback: several answers to each instruction, with scores; also in its binarized layout."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from lightning_rlhf.data.importing.rows import Dropped, Found, Layout, each, number, pair, text, turns, user
from lightning_rlhf.data.layouts import same


def _ultrafeedback(row: Mapping[str, Any]) -> Found:
    if "completions" in row:
        yield from _scored(row)
    else:
        yield from _binarized(row)


def _scored(row: Mapping[str, Any]) -> Found:
    """Keeps each score, and makes pairs of all answers whose scores differ."""
    prompt, source = user(text(row, "instruction")), row.get("source")
    answers = []
    for completion in row.get("completions") or []:
        answer, score = text(completion, "response"), number(completion.get("overall_score"))
        if not answer:
            yield Dropped("an answer is empty")
        elif score is None:
            yield Dropped("an answer has no overall_score")
        else:
            answers.append((answer, score))
            yield "scores", {"prompt": prompt, "completion": answer, "score": score, **_known(source=source)}
    if len(answers) < 2:
        yield Dropped("fewer than two answers have a score")
    for (one, score), (other, other_score) in combinations(answers, 2):
        if score == other_score:
            yield Dropped("two answers have the same score, so they make no pair")
            continue
        chosen, rejected = (one, other) if score > other_score else (other, one)
        yield from pair(prompt, chosen, rejected, source=source)


def _binarized(row: Mapping[str, Any]) -> Found:
    better, worse = turns(row, "chosen"), turns(row, "rejected")
    if len(better) < 2 or len(worse) < 2:
        yield Dropped("chosen or rejected is no conversation")
        return
    first, second = number(row.get("score_chosen")), number(row.get("score_rejected"))
    if not same(better[:-1], worse[:-1]):
        yield Dropped("the conversations differ before the last turn")
    elif first is not None and first == second:
        yield Dropped("two answers have the same score, so they make no pair")
    else:
        known = _known(score_chosen=first, score_rejected=second)
        yield from pair(better[:-1], better[-1]["content"], worse[-1]["content"], **known)


def _known(**columns: Any) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if value is not None}


ULTRAFEEDBACK = Layout("ultrafeedback", "openbmb/UltraFeedback", each(_ultrafeedback))
