"""Chooses the samples of a run card: answers before and after training, and rollouts during training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightning_rlhf.report.measures import answers
from lightning_rlhf.report.run import Sample, Stage

T = TypeVar("T")
_PAIRS = 8
_ROLLOUTS = 6


@dataclass(frozen=True)
class Pair:
    """Two answers to one row of the held-out data. `after` is None as long as there was only one evaluation."""

    before: Sample
    after: Sample | None

    @property
    def gain(self) -> tuple[float, float]:
        """By how much the gold metric and the score have risen; 0 where they are not known."""
        return _rise(self, lambda sample: sample.gold), _rise(self, lambda sample: sample.score)


def _rise(pair: Pair, measure: Callable[[Sample], float | None]) -> float:
    old, new = measure(pair.before), None if pair.after is None else measure(pair.after)
    return 0.0 if old is None or new is None else new - old


def before_and_after(stage: Stage) -> list[Pair]:
    """Up to eight rows with their first and newest answers, the most telling ones first.

    Those are the rows whose gold metric, or score, has changed most, up or down; without both, rows whose answer now
    ends by itself, or no longer does, and then all others whose answers differ. If only rows that have improved were
    shown although others became worse, the worst row takes the last place. If all answers are of one evaluation, they
    are spread evenly from the best to the worst.
    """
    first, last = (answers(stage, first=first) for first in (True, False))
    if not first:
        return []
    if next(iter(first.values())).iteration == next(iter(last.values())).iteration:
        best_first = sorted(first.values(), key=_merit, reverse=True)
        return [Pair(sample, None) for sample in spread(best_first, _PAIRS)]
    pairs = [Pair(sample, last[row]) for row, sample in first.items() if row in last]
    pairs.sort(key=_telling, reverse=True)
    shown, worst = pairs[:_PAIRS], min(pairs, key=lambda pair: pair.gain, default=None)
    if worst is not None and worst.gain < (0.0, 0.0) and all(pair.gain >= (0.0, 0.0) for pair in shown):
        shown[-1] = worst
    return shown


def _telling(pair: Pair) -> tuple[float, float, float, bool]:
    gold, score = pair.gain
    differs = pair.after is not None and pair.before.response != pair.after.response
    return abs(gold), abs(score), abs(_rise(pair, _ends)), differs


def _ends(sample: Sample) -> float:
    return float(sample.finish_reason == "stop")


def _merit(sample: Sample) -> tuple[float, float, bool]:
    gold, score = (0.0 if value is None else value for value in (sample.gold, sample.score))
    return gold, score, bool(_ends(sample))


def order(stage: Stage) -> str:
    """Says how the answers are ordered, and how many have improved by the gold metric, or else by the score."""
    first, last = (answers(stage, first=first) for first in (True, False))
    if next(iter(first.values())).iteration == next(iter(last.values())).iteration:
        known = any(sample.gold is not None or sample.score is not None for sample in first.values())
        return "They are spread from the best to the worst." if known else ""
    for name, measure in (("gold metric", lambda sample: sample.gold), ("score", lambda sample: sample.score)):
        rises = [
            new - old
            for row, sample in first.items()
            if row in last and (old := measure(sample)) is not None and (new := measure(last[row])) is not None
        ]
        if rises and any(rises):
            up, down = sum(rise > 0 for rise in rises), sum(rise < 0 for rise in rises)
            most = f"Those whose {name} has changed most come first."
            return f"{most} The {name} is higher than before in {up} of {len(rises)} answers, and lower in {down}."
    differing = sum(row in last and sample.response != last[row].response for row, sample in first.items())
    if not differing:
        return f"None of {len(first)} answers differs from the answer before training."
    if differing == 1:
        return f"Of {len(first)} answers, 1 differs from the answer before training; it comes first."
    return f"Of {len(first)} answers, {differing} differ from the answers before training; they come first."


def rollouts_over_time(stage: Stage) -> list[Sample]:
    """One rollout from each of up to six iterations, evenly spaced: the one whose score is in the middle."""
    found: dict[int, list[Sample]] = {}
    for sample in stage.samples:
        if sample.phase == "rollout":
            found.setdefault(sample.iteration, []).append(sample)
    chosen = spread(sorted(found), _ROLLOUTS)
    return [sorted(found[at], key=lambda sample: sample.score or 0.0)[len(found[at]) // 2] for at in chosen]


def spread(items: Sequence[T], count: int) -> list[T]:
    """Chooses up to `count` items, evenly spaced from the first to the last."""
    count = min(len(items), count)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]
