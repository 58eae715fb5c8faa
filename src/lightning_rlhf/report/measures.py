"""Compares the answers of a stage before and after training, and says how exact its held-out metrics are."""

import math
from collections.abc import Callable

from lightning_rlhf.report.intervals import (
    Change,
    Interval,
    change_of_mean,
    change_of_share,
    radius_of_mean,
    wilson,
)
from lightning_rlhf.report.run import Sample, Stage

OF_PAIRS = ("reward_accuracy", "longer_wins_accuracy", "shorter_wins_accuracy")
"""Shares of the held-out pairs."""
SHARES = ("gold_rate", "gold_win_rate", "eos_rate", *OF_PAIRS)
"""Metrics that are the share of something."""

_VALUES: dict[str, Callable[[Sample], float | None]] = {
    "gold_rate": lambda sample: None if sample.gold is None else float(sample.gold >= 1),
    "gold_mean": lambda sample: sample.gold,
    "score": lambda sample: sample.score,
    "kl": lambda sample: sample.kl,
    "response_length": lambda sample: sample.length,
    "eos_rate": lambda sample: float(sample.finish_reason == "stop") if sample.finish_reason else None,
}
"""The contribution of an answer to each metric that is a mean over answers."""


def answers(stage: Stage, *, first: bool) -> dict[int, Sample]:
    """The answers to held-out prompts of the first or of the newest evaluation, by row, in the order of the file.

    A resumed run may write an answer twice; the later one belongs to the resumed run.
    """
    held_out = [sample for sample in stage.samples if sample.row is not None]
    if not held_out:
        return {}
    iteration = (min if first else max)(sample.iteration for sample in held_out)
    return {sample.row: sample for sample in held_out if sample.iteration == iteration and sample.row is not None}


def gold_names(stage: Stage) -> list[str]:
    """The names under which the mean of a gold metric is logged, if it has a name of its own."""
    return sorted({sample.gold_name for sample in stage.samples if sample.gold_name is not None})


def num_rows(stage: Stage, name: str) -> int | None:
    """The number of pairs or answers behind a held-out metric; None if it is not known."""
    if name in OF_PAIRS:
        return stage.result.rows.get("held out")
    return len(answers(stage, first=False)) or stage.result.rows.get("answered")


def interval(stage: Stage, name: str, value: float) -> Interval | None:
    """The 95% interval of a held-out metric: Wilson's of a share, and Student's of a mean; None if it is not known."""
    if name in SHARES:
        count = num_rows(stage, name)
        return wilson(value, count) if count and 0 <= value <= 1 else None
    values = [each for sample in answers(stage, first=False).values() if (each := _value(sample, name)) is not None]
    if len(values) < 2 or not math.isfinite(value):
        return None
    radius = radius_of_mean(values)
    return Interval(value - radius, value + radius)


def change(stage: Stage, name: str) -> Change | None:
    """How much a held-out metric has changed in training, and how much chance alone would explain.

    None if the same rows were not answered before and after training. The KL before training is 0, and the win rate is
    compared with a half.
    """
    first, last = (answers(stage, first=first) for first in (True, False))
    pairs = [(sample, last[row]) for row, sample in first.items() if row in last]
    if not pairs or pairs[0][0].iteration != 0 or pairs[0][1].iteration == 0:
        return None
    values = [(_value(old, name), _value(new, name)) for old, new in pairs]
    if name == "gold_win_rate":
        values = [(old.gold, new.gold) for old, new in pairs]
    elif name == "kl":
        values = [(0.0, new) for _, new in values]
    known = [(old, new) for old, new in values if old is not None and new is not None]
    if not known:
        return None
    if name in SHARES:
        # Of a pair of answers, each counts or not, and one of two answers has the higher gold metric.
        gained, lost = (sum(sign * (new - old) > 0 for old, new in known) for sign in (1, -1))
        return change_of_share(gained, lost, len(known))
    return change_of_mean([new - old for old, new in known])


def _value(sample: Sample, name: str) -> float | None:
    """The contribution of an answer to a metric; None if the metric is no mean over answers."""
    measure = _VALUES.get("gold_mean" if name == sample.gold_name else name)
    return None if measure is None else measure(sample)
