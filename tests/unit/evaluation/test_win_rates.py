"""Win rates, and what remains of them when lengths are equal."""

import math

import numpy as np
import pytest

from lightning_rlhf.evaluation.win_rates import by_scores, length_controlled, win_rate


def test_the_higher_score_wins_and_equal_scores_are_a_tie() -> None:
    assert by_scores([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == [0.0, 0.5, 1.0]


def test_a_tie_counts_half_and_a_missing_verdict_not_at_all() -> None:
    found = win_rate([1.0, 1.0, 0.5, 0.0, None], [0.0] * 5, list(range(5)))
    assert found.win_rate.value == 2.5 / 4
    assert (found.wins, found.ties, found.losses, found.missing) == (2, 1, 1, 1)
    assert found.win_rate.num_rows == 4
    # Verdicts of several people may lie between.
    assert win_rate([0.75, 0.25, 0.5], [0.0] * 3, [0, 1, 2])[2:5] == (1, 1, 1)


def test_equal_lengths_leave_the_win_rate_as_it_is() -> None:
    verdicts = [1.0] * 7 + [0.5] * 2 + [0.0] * 3
    found = win_rate(verdicts, [4.0] * 12, list(range(12)))
    assert found.length_controlled.value == found.win_rate.value == pytest.approx(8 / 12)


def fitted(verdicts: np.ndarray, differences: np.ndarray) -> float:
    """The penalised maximum likelihood by a fine grid: sum of log-likelihoods minus slope² / 20."""
    x = np.tanh(differences / differences.std())
    intercepts, slopes = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-6, 6, 241), indexing="ij")
    logits = intercepts[..., None] + slopes[..., None] * x
    likelihood = (verdicts * logits - np.logaddexp(0, logits)).sum(-1) - slopes**2 / 20
    best = np.unravel_index(likelihood.argmax(), likelihood.shape)
    return 1 / (1 + math.exp(-intercepts[best]))


def test_a_judge_that_likes_length_alone_leaves_nothing_when_lengths_are_equal() -> None:
    # Model a writes the longer answer in 300 of 400 rows, and the longer answer wins in 80% of the rows: 240 + 20 wins.
    differences = np.asarray([50.0] * 300 + [-50.0] * 100)
    verdicts = np.asarray([1.0] * 240 + [0.0] * 60 + [1.0] * 20 + [0.0] * 80)
    controlled = length_controlled(verdicts, differences)
    assert verdicts.mean() == 0.65
    assert controlled == pytest.approx(fitted(verdicts, differences), abs=0.005)
    assert controlled == pytest.approx(0.5, abs=0.01)


def test_little_remains_of_what_the_longer_answer_wins_each_time() -> None:
    # Model a writes 30 characters more on average, and the judge knows nothing but the length.
    rng = np.random.default_rng(3)
    differences = rng.normal(30, 60, size=400)
    verdicts = (differences > 0).astype(float)
    found = win_rate(verdicts.tolist(), differences.tolist(), list(range(400)))
    assert found.win_rate.value == pytest.approx(0.69, abs=0.05)
    assert found.win_rate.low > 0.6
    assert found.length_controlled.low < 0.5 < found.length_controlled.high


def test_an_advantage_that_length_does_not_explain_stays() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(size=400)
    verdicts = (rng.random(400) < 0.8).astype(float)
    verdicts[::7] = 0.5
    controlled = length_controlled(verdicts, differences)
    assert controlled == pytest.approx(fitted(verdicts, differences), abs=0.005)
    assert controlled == pytest.approx(verdicts.mean(), abs=0.02)


def test_the_unit_of_lengths_and_the_names_of_the_models_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(3, 5, size=60)
    verdicts = (rng.random(60) < 1 / (1 + np.exp(-differences / 5))).astype(float)
    one = length_controlled(verdicts, differences)
    assert length_controlled(verdicts, 7 * differences) == pytest.approx(one, abs=1e-3)
    assert length_controlled(1 - verdicts, -differences) == pytest.approx(1 - one, abs=1e-3)


def test_a_model_that_wins_always_wins_at_equal_lengths_too() -> None:
    found = win_rate([1.0] * 20, list(range(20)), list(range(20)))
    assert found.length_controlled[:3] == found.win_rate[:3]
    assert found.win_rate.value == 1.0
    assert 0.8 < found.win_rate.low < 1


def test_the_interval_of_the_controlled_rate_contains_it() -> None:
    rng = np.random.default_rng(2)
    differences = rng.normal(size=80).tolist()
    verdicts = (rng.random(80) < 0.7).astype(float).tolist()
    found = win_rate(verdicts, differences, list(range(80))).length_controlled
    assert found.low < found.value < found.high
    # About 1.96 · sqrt(0.21 / 80) = 0.1 to each side.
    assert 0.12 < found.high - found.low < 0.3
