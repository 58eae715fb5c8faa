"""What a reward model is worth on preferences: accuracy by length and source, calibration, and what length explains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_rlhf.data.faults import Report
from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.calibration import Calibration, calibration
from lightning_rlhf.evaluation.comparisons import Comparison
from lightning_rlhf.evaluation.estimates import Estimate, mean_estimate
from lightning_rlhf.evaluation.scoring import rendered, score_ids
from lightning_rlhf.rewards.build import LoadedReward

SOURCE_COLUMNS = ("subset", "source")
"""Columns that say where a row comes from, if the user names none."""
_BUCKETS = 4


@dataclass(frozen=True)
class ScoredComparison:
    """A comparison with the score and the length in tokens of each answer, the good ones first."""

    comparison: Comparison
    scores: list[float]
    lengths: list[int]

    @property
    def num_good(self) -> int:
        """Number of good answers."""
        return len(self.comparison.good)

    def credit(self, numbers: Sequence[float]) -> float:
        """Tells whether numbers of the answers, such as their scores, put all good answers above all bad ones.

        Returns:
            1 if they do and 0 if not. If the lowest good number equals the highest bad one, 1/n, where n is one more
            than the number of bad answers with this number: the chance of a blind choice among them.
        """
        lowest, bad = min(numbers[: self.num_good]), numbers[self.num_good :]
        if lowest == max(bad):
            return 1 / (1 + list(bad).count(lowest))
        return float(lowest > max(bad))


@dataclass(frozen=True)
class RewardModelReport:
    """The measurements of a reward model on preferences.

    Attributes:
        accuracy: Share of the rows in which all good answers have higher scores than all bad ones.
        longer: The same if the longer answer always won.
        shorter: The same if the shorter answer always won.
        above_length: How much more rows the model gets right than the better of the two rules.
        by_source: Accuracy on the rows of each source; empty if no column names sources.
        by_length: Accuracy by the mean length of the answers of a row.
        by_difference: Accuracy by how much longer the good answers are than the bad ones, on average.
        calibration: Whether the probabilities can be believed, from rows with one good answer; None if there are none.
    """

    accuracy: Estimate
    longer: Estimate
    shorter: Estimate
    above_length: Estimate
    by_source: Mapping[str, Estimate]
    by_length: Mapping[str, Estimate]
    by_difference: Mapping[str, Estimate]
    calibration: Calibration | None


def score_comparisons(
    reward: LoadedReward, comparisons: Sequence[Comparison], report: Report
) -> list[ScoredComparison]:
    """Scores all answers.

    Args:
        reward: The reward model, in evaluation mode.
        comparisons: The rows.
        report: Receives the rows that the template refuses, or that are too long for the model; they are left out.
    """
    texts = rendered(
        reward,
        [one for row in comparisons for one in row.conversations],
        tools=[row.tools for row in comparisons for _ in row.conversations],
    )
    kept, places = [], []
    start = 0
    for row in comparisons:
        own = texts[start : start + len(row.conversations)]
        start += len(own)
        if errors := [text for text in own if isinstance(text, UserError)]:
            report.skip(row.place, errors[0])
        else:
            kept.append(row)
            places.append([text for text in own if not isinstance(text, UserError)])
    scores = iter(score_ids(reward, [text.ids for own in places for text in own]))
    return [
        ScoredComparison(row, [next(scores) for _ in own], [text.answer_length for text in own])
        for row, own in zip(kept, places, strict=True)
    ]


def report_on(rows: Sequence[ScoredComparison], source_column: str | None = None, seed: int = 0) -> RewardModelReport:
    """Computes all measurements.

    Args:
        rows: At least one scored row.
        source_column: Column that names the source of a row; None takes `subset` or `source` if rows have it.
        seed: Seed of the resampling.

    Raises:
        UserError: If no row has the column.
    """
    right = [row.credit(row.scores) for row in rows]
    longer = [row.credit(row.lengths) for row in rows]
    shorter = [row.credit([-length for length in row.lengths]) for row in rows]
    prompts = [row.comparison.prompt for row in rows]

    def estimate(values: Sequence[float], places: Sequence[int] | None = None) -> Estimate:
        places = range(len(rows)) if places is None else places
        return mean_estimate([values[n] for n in places], [prompts[n] for n in places], seed=seed)

    rule = longer if sum(longer) >= sum(shorter) else shorter
    singles = [row.scores for row in rows if row.num_good == 1]
    return RewardModelReport(
        accuracy=estimate(right),
        longer=estimate(longer),
        shorter=estimate(shorter),
        above_length=mean_estimate(
            [model - length for model, length in zip(right, rule, strict=True)], prompts, seed=seed, share=False
        ),
        by_source={name: estimate(right, places) for name, places in _sources(rows, source_column).items()},
        by_length=_by_bucket(lambda places: estimate(right, places), [float(np.mean(row.lengths)) for row in rows]),
        by_difference=_by_bucket(lambda places: estimate(right, places), [_difference(row) for row in rows]),
        calibration=calibration(singles) if singles else None,
    )


def _difference(row: ScoredComparison) -> float:
    return float(np.mean(row.lengths[: row.num_good]) - np.mean(row.lengths[row.num_good :]))


def _sources(rows: Sequence[ScoredComparison], column: str | None) -> dict[str, list[int]]:
    """The places of the rows of each source."""
    known = {name for row in rows for name in row.comparison.columns}
    if column is not None and column not in known:
        raise UserError(
            f"source_column={column}: no row has this column; there are {', '.join(sorted(known)) or 'no others'}"
        )
    column = column or next((name for name in SOURCE_COLUMNS if name in known), None)
    found: dict[str, list[int]] = {}
    if column is not None:
        for place, row in enumerate(rows):
            found.setdefault(_name(row.comparison.columns.get(column)), []).append(place)
    return dict(sorted(found.items()))


def _name(value: Any) -> str:
    return "(none)" if value is None else str(value)


def _by_bucket(estimate: Callable[[Sequence[int]], Estimate], values: Sequence[float]) -> dict[str, Estimate]:
    """Splits rows at the quartiles of a value, and names each bucket by its smallest and largest value."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BUCKETS + 1)[1:-1]))
    buckets = np.searchsorted(edges, values, side="left")
    found = {}
    for bucket in np.unique(buckets):
        places = np.flatnonzero(buckets == bucket).tolist()
        own = [values[place] for place in places]
        found[f"{round(min(own), 2):g} to {round(max(own), 2):g}"] = estimate(places)
    return found
