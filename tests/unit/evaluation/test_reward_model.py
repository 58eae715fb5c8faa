"""The measurements of a reward model, on scores and lengths that are made up."""

from typing import Any

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.evaluation.comparisons import Comparison
from lightning_rlhf.evaluation.reward_model import ScoredComparison, report_on


def row(scores: list[float], lengths: list[int] | None = None, good: int = 1, prompt: str = "", **columns: Any) -> Any:
    def conversation(text: str) -> list[Any]:
        return [{"role": "user", "content": prompt or f"{scores} {lengths}"}, {"role": "assistant", "content": text}]

    answers = [conversation(str(number)) for number in range(len(scores))]
    comparison = Comparison(answers[:good], answers[good:], columns, "here:1", [])
    return ScoredComparison(comparison, scores, lengths or [1] * len(scores))


@pytest.mark.parametrize(
    ("scores", "good", "credit"),
    [
        ([2.0, 1.0], 1, 1.0),
        ([1.0, 2.0], 1, 0.0),
        ([1.0, 1.0], 1, 1 / 2),
        ([3.0, 1.0, 2.0, 0.0], 1, 1.0),
        ([2.0, 1.0, 3.0, 0.0], 1, 0.0),
        # The good answer shares the first place with two others: a blind choice finds it in a third of the cases.
        ([3.0, 3.0, 3.0, 0.0], 1, 1 / 3),
        # Of two good answers, the worse one decides.
        ([3.0, 2.0, 1.0], 2, 1.0),
        ([3.0, 1.0, 2.0], 2, 0.0),
    ],
)
def test_a_row_is_right_if_all_good_answers_have_higher_scores(scores: list[float], good: int, credit: float) -> None:
    assert row(scores, good=good).credit(scores) == credit


def test_accuracy_and_the_rules_about_length_count_the_same_rows() -> None:
    rows = [
        row([1.0, 0.0], [5, 2]),  # right, longer
        row([1.0, 0.0], [2, 5]),  # right, shorter
        row([1.0, 0.0], [3, 5]),  # right, shorter
        row([0.0, 1.0], [4, 4]),  # wrong, equally long
    ]
    found = report_on(rows)
    assert found.accuracy.value == 0.75
    # One row in which the longer answer is good, and half of the row with equal lengths.
    assert found.longer.value == 1.5 / 4
    assert found.shorter.value == 2.5 / 4
    # Against "the shorter answer wins": (1 - 0 + 1 - 1 + 1 - 1 + 0 - 0.5) / 4.
    assert found.above_length.value == pytest.approx(0.5 / 4)


def test_accuracy_is_given_by_source() -> None:
    rows = [row([1.0, 0.0], subset="math"), row([0.0, 1.0], subset="chat"), row([1.0, 0.0], subset="chat")]
    found = report_on(rows).by_source
    assert {name: (one.value, one.num_rows) for name, one in found.items()} == {"chat": (0.5, 2), "math": (1.0, 1)}
    assert list(report_on([row([1.0, 0.0], topic=3)], "topic").by_source) == ["3"]
    assert report_on([row([1.0, 0.0], topic=3)]).by_source == {}
    with pytest.raises(UserError, match="source_column=subject: no row has this column; there are topic"):
        report_on([row([1.0, 0.0], topic=3)], "subject")


def test_accuracy_is_given_by_length_and_by_difference_of_lengths() -> None:
    # Mean lengths 1 to 8; the good answer is longer by 2 in the odd rows, which alone are right.
    rows = [row([float(n % 2), 0.5], [n + 1 if n % 2 else n - 1, n - 1 if n % 2 else n + 1]) for n in range(1, 9)]
    found = report_on(rows)
    assert list(found.by_length) == ["1 to 2", "3 to 4", "5 to 6", "7 to 8"]
    assert {one.value for one in found.by_length.values()} == {0.5}
    assert {name: one.value for name, one in found.by_difference.items()} == {"-2 to -2": 0.0, "2 to 2": 1.0}
    assert sum(one.num_rows for one in found.by_length.values()) == 8


def test_rows_with_several_good_answers_say_nothing_about_calibration() -> None:
    only_many = report_on([row([3.0, 2.0, 1.0], good=2)])
    assert only_many.calibration is None
    both = report_on([row([3.0, 2.0, 1.0], good=2), row([0.0, 0.0])])
    assert both.calibration is not None
    assert sum(one.num_rows for one in both.calibration.bins) == 1


def test_rows_with_one_prompt_are_resampled_together() -> None:
    alone = report_on([row([float(n % 2), 0.5], prompt=str(n)) for n in range(40)])
    together = report_on([row([float(n % 2), 0.5], prompt=str(n % 2)) for n in range(40)])
    assert alone.accuracy.value == together.accuracy.value == 0.5
    assert alone.accuracy.low > 0.3
    assert together.accuracy.low == 0.0
