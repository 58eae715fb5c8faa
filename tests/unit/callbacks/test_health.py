"""Each alarm with a series that just rings it and one that just does not, and the settings that a user may change."""

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_rlhf.callbacks import Health
from lightning_rlhf.callbacks.alarms import ALARMS, Alarm
from lightning_rlhf.callbacks.diversity import distinct
from lightning_rlhf.distributed.gradient_norms import total_norm
from lightning_rlhf.errors import UserError

History = dict[str, list[float]]
NORMS = [1.0, 3.0] * 10  # 20 updates, median 2
FLAT = [0.0] * 40


def kl(values: list[float], length: float = 20.0) -> History:
    return {"rollout/kl": values, "rollout/response_length": [length] * len(values)}


def signed_kl(values: list[float], error: float = 0.01) -> History:
    return {"rollout/kl": values, "rollout/kl_error": [error] * len(values)}


def accuracy(reward: float, longer: float, shorter: float) -> History:
    names = {"reward": reward, "longer_wins": longer, "shorter_wins": shorter}
    return {f"val/{name}_accuracy": [value] for name, value in names.items()}


def gold(means: list[float], kls: list[float], scores: list[float] | None = None) -> History:
    scores = scores or [float(i) for i in range(len(means))]
    return {"gold/mean": means, "gold/error": [0.01] * len(means), "gold/kl": kls, "gold/score": scores}


def scores(values: list[float], std: float = 1.0) -> History:
    return {"rollout/score_mean": values, "rollout/score_std": [std] * len(values)}


def losses(val: list[float], train: list[float]) -> History:
    return {"val/loss": val, "step/loss": train}


def moves(kls: list[float], clipped: list[float] | None = None) -> History:
    return {"rollout/kl": kls, "train/clip_fraction": clipped or [0.0] * len(kls)}


def one(name: str, *values: float) -> History:
    return {name: list(values)}


# For each alarm: series that must ring it and series that must not, as close to the rule as possible.
CASES: dict[str, tuple[list[History], list[History]]] = {
    "not_finite": (
        [one("train/policy_loss", 1.0, nan), one("train/grad_norm", inf), {"a": [1.0], "b": [-inf]}],
        [one("train/policy_loss", nan, 1.0), one("train/grad_norm", 1e30)],
    ),
    "gradient_explosion": (
        [
            one("train/grad_norm", *NORMS, 20.1, 20.1, 20.1),
            one("train/grad_norm", *[99.0] * 100, *[1.0] * 50, 11, 12, 11),
        ],
        [
            one("train/grad_norm", *NORMS, 20.1, 20, 20.1),  # One of the three norms is not above 10 · 2.
            one("train/grad_norm", *NORMS[1:], 99, 99, 99),  # There are only 19 updates before.
            one("train/grad_norm", *NORMS, 999),  # This is a single spike.
            one("train/grad_norm", *[0.1] * 100, *[1.0] * 50, 9, 9, 9),  # Early values do not count.
        ],
    ),
    "weights_stand_still": (
        [one("train/moved_fraction", 1.0, 0.249)],
        [one("train/moved_fraction", 0.1, 0.25)],
    ),
    "loss_stands_still": (
        [
            losses([6.73, 6.731, 6.729], [6.73] * 12),
            losses([6.73, 6.736, 6.724], [6.76, 6.76, 6.73, 6.73]),  # 0.1% is 0.00673; 1% is 0.0673
            losses([0.693, 0.693, 0.693], [0.69] * 100),
        ],
        [
            losses([6.73, 6.73, 6.722], [6.73] * 12),  # one is further away
            losses([6.73, 6.73], [6.73] * 12),  # two evaluations only
            losses([0.62, 0.62, 0.62], [0.9] * 10 + [0.62] * 30),  # it has learnt before the first evaluation
            losses([6.9, 6.73, 6.73, 6.73], [6.73] * 12),  # it has moved since the first one
        ],
    ),
    "reward_below_length": (
        [accuracy(0.55, 0.55, 0.45), accuracy(0.59, 0.4, 0.6)],
        [accuracy(0.56, 0.55, 0.45)],
    ),
    "reward_hacking": (
        # The best mean is 0.9, and four standard errors below it is 0.86.
        [gold([0.5, 0.9, 0.859, 0.859], [0, 3, 5, 6]), gold([0.9, 0.5, 0.8, 0.8], [0, 1, 2, 3])],
        [
            gold([0.5, 0.9, 0.859, 0.861], [0, 3, 5, 6]),  # The fall is within the error.
            gold([0.5, 0.9, 0.5], [0, 3, 5]),  # There is only one evaluation.
            gold([0.5, 0.9, 0.5, 0.5], [0, 3, 2.9, 2.9]),  # The KL is not above its value at the best mean.
            gold([0.5, 0.9, 0.5, 0.5], [0, 3, 5, 6], [0, 1, 0.9, 0.9]),  # The score is lower too: the model is broken.
            gold([0.5, 0.5], [0, 3]),  # There is no earlier value to compare with.
        ],
    ),
    "kl_runaway": (
        [kl([0, 10.1, 10.1, 10.1])],
        [kl([10.1, 10.0, 10.1]), kl([10.1, 10.1]), kl([19, 19, 19], length=40.0)],
    ),
    "kl_negative": (
        [signed_kl([-0.091, -0.091])],  # -0.091 + 4 · 0.01 = -0.051
        [signed_kl([-0.091, -0.089]), signed_kl([-0.5, -0.5], error=0.12), signed_kl([-1e-3, -1e-3], error=0.0)],
    ),
    "sampler_mismatch": (
        [one("rollout/sampler_mismatch", 0.101, 0.101)],
        [one("rollout/sampler_mismatch", 0.101, 0.099), one("rollout/sampler_mismatch", 0.2)],
    ),
    "ratio_not_one": (
        [one("train/first_log_ratio", 0.0, 0.101, 0.101)],
        [one("train/first_log_ratio", 0.101, 0.099), one("train/first_log_ratio", 0.5)],
    ),
    "entropy_collapse": (
        [one("rollout/entropy", 2.0, 0.39, 0.39, 0.39)],
        [one("rollout/entropy", 2.0, 0.39, 0.41, 0.39), one("rollout/entropy", 0.1, 0.1, 0.1, 0.1)],
    ),
    "repetition": (
        [one("rollout/distinct_2", 0.5, 0.149, 0.149, 0.149)],
        [one("rollout/distinct_2", 0.5, 0.149, 0.151, 0.149), one("rollout/distinct_2", 0.5, 0.1, 0.1)],
    ),
    "length_drift": (
        [one("rollout/response_length", 20, 41, 41, 41), one("rollout/response_length", 20, 9.9, 9.9, 9.9)],
        [
            one("rollout/response_length", 20, 41, 39, 41),
            one("rollout/response_length", 20, 9.9, 10.1, 9.9),
            one("rollout/response_length", 20, 41, 9, 41),
        ],
    ),
    "no_eos": (
        [one("rollout/eos_rate", 0.49, 0.49, 0.49)],
        [one("rollout/eos_rate", 0.49, 0.51, 0.49), one("rollout/eos_rate", 0.0, 0.0)],
    ),
    "clip_fraction_high": (
        [one("train/clip_fraction", 0.26, 0.26, 0.26)],
        [one("train/clip_fraction", 0.26, 0.24, 0.26)],
    ),
    "critic_blind": (
        [one("rollout/explained_variance", *[-0.01] * 10)],
        [one("rollout/explained_variance", *[-0.01] * 9), one("rollout/explained_variance", 0.01, *[-0.5] * 9)],
    ),
    "zero_variance": (
        [one("rollout/zero_variance_groups", *[0.81] * 5)],
        [one("rollout/zero_variance_groups", *[0.81] * 4, 0.79)],
    ),
    "actor_stands_still": (
        # The single values may lie further away from 0, as estimates do.
        [moves([2e-3, -2e-3] * 5), moves([1.0] + [9e-4] * 10), moves([-5e-4] * 10)],
        [
            moves([1.1e-3] * 10),
            moves([0.0] * 9),
            moves([0.0] * 10, [0.0] * 9 + [1e-3]),  # something is clipped
            moves([-1.0] * 10),  # negative, which is another alarm
        ],
    ),
    "score_flat": (
        [
            scores([*FLAT, *[0.09] * 10]),
            scores([-0.9, *[0.1] * 9, *[0.0] * 30, *[0.09] * 10]),  # The first ten values have mean 0.
            scores([0.0] * 25 + [-1.0] * 25),
            scores([*FLAT, *[0.19] * 10], std=2.0),
        ],
        [scores([*FLAT, *[0.11] * 10]), scores([*FLAT, *[0.0] * 9]), scores([*[0.0] * 10, *[0.2] * 190])],
    ),
}


def test_every_alarm_has_its_cases() -> None:
    assert CASES.keys() == ALARMS.keys()


@pytest.mark.parametrize(("name", "history"), [(name, h) for name, (rings, _) in CASES.items() for h in rings])
def test_an_alarm_rings_just_beyond_its_rule(name: str, history: History) -> None:
    evidence = ALARMS[name].evidence(history)
    assert evidence
    assert any(character.isdigit() for character in evidence) or name == "not_finite"


@pytest.mark.parametrize(("name", "history"), [(name, h) for name, (_, quiet) in CASES.items() for h in quiet])
def test_an_alarm_is_quiet_just_inside_its_rule(name: str, history: History) -> None:
    assert ALARMS[name].evidence(history) is None


@pytest.mark.parametrize("name", [name for name, alarm in ALARMS.items() if alarm.reads])
def test_an_alarm_whose_metrics_a_stage_does_not_have_is_quiet(name: str) -> None:
    assert ALARMS[name].evidence({"perf/peak_gib": [1.0] * 300}) is None
    assert not ALARMS[name].knows({"perf/peak_gib": [1.0] * 300})


def first_rings(run: dict[str, History]) -> dict[str, int]:
    """Returns the iteration of a recorded run in which each alarm rings for the first time."""
    rings: dict[str, int] = {}
    num_iterations, num_updates = len(run["iterations"]["rollout/kl"]), len(run["updates"]["train/grad_norm"])
    for iteration in range(1, num_iterations + 1):
        num_evaluations = sum(when <= iteration for when in run["evaluations"]["iteration"])
        seen = {name: values[:iteration] for name, values in run["iterations"].items()}
        seen |= {name: values[:num_evaluations] for name, values in run["evaluations"].items()}
        seen |= {name: values[: num_updates // num_iterations * iteration] for name, values in run["updates"].items()}
        for name, alarm in ALARMS.items():
            if alarm.evidence(seen):
                rings.setdefault(name, iteration)
    return rings


# These are recorded PPO runs on the demo. Three use the default settings with different seeds, and one uses seed 2
# for 32 iterations instead of 12. One has no KL penalty and four times the learning rate; its score rises to the end,
# while its gold rate falls from 0.75 to 0. One has a learning rate of 5e-3, which breaks the model at once.
RUNS: dict[str, dict[str, History]] = json.loads((Path(__file__).parent / "demo_runs.json").read_text())


@pytest.mark.parametrize("run", ["seed 1", "seed 2", "seed 3", "long"])
def test_no_alarm_rings_in_a_healthy_run_of_the_demo(run: str) -> None:
    assert first_rings(RUNS[run]) == {}


def test_a_hacked_reward_is_told_while_it_is_hacked() -> None:
    rings = first_rings(RUNS["hacked"])
    assert rings == {"kl_runaway": 8, "reward_hacking": 10}


def test_a_broken_net_is_told_early_and_is_not_taken_for_a_hacked_reward() -> None:
    rings = first_rings(RUNS["broken"])
    assert rings == {"kl_runaway": 4, "length_drift": 4, "entropy_collapse": 7}


def test_threshold_and_window_can_be_changed_one_by_one() -> None:
    health = Health(alarms={"no_eos": {"window": 1}, "kl_runaway": {"threshold": 2}})
    changed: Alarm = health.alarms["no_eos"]
    assert (changed.window, changed.threshold) == (1, ALARMS["no_eos"].threshold)
    assert changed.evidence(one("rollout/eos_rate", 0.49))
    assert health.alarms["kl_runaway"].evidence(kl([30, 30, 30])) is None
    assert ALARMS["kl_runaway"].evidence(kl([30, 30, 30]))


def test_everything_that_is_wrong_is_named_at_once() -> None:
    alarms: Any = {
        "kl": {},
        "no_eos": {"level": 1},
        "kl_runaway": 3,
        "repetition": {"threshold": "low", "window": 0},
        "score_flat": {"window": 201},
        "zero_variance": {"window": 2.5},
    }
    with pytest.raises(UserError) as error:
        Health(alarms=alarms, stop_on=["x"])
    lines = str(error.value).splitlines()
    assert all(name in lines[0] for name in ALARMS)
    assert [line.split(";")[0] for line in lines] == [
        "health: there is no alarm 'kl'",
        "health: there is no alarm 'x'",
        "health: alarms.no_eos={'level': 1}: an alarm has a threshold and a window, and nothing else",
        "health: alarms.kl_runaway=3: an alarm has a threshold and a window, and nothing else",
        "health: alarms.repetition.threshold=low must be a number",
        "health: alarms.repetition.window=0 must be a whole number from 1 to 200",
        "health: alarms.score_flat.window=201 must be a whole number from 1 to 200",
        "health: alarms.zero_variance.window=2.5 must be a whole number from 1 to 200",
    ]


def test_distinct_counts_different_ngrams_of_all_responses_and_no_padding() -> None:
    ids = torch.tensor([[5, 6, 5, 6], [5, 6, 7, 9]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    # The tokens are 5 6 5 6 5 6 7: three of seven are different.
    assert distinct(ids, mask, 1) == 3 / 7
    # The pairs are 56 65 56 | 56 67: three of five are different.
    assert distinct(ids, mask, 2) == 3 / 5
    # The triples are 565 656 | 567.
    assert distinct(ids, mask, 3) == 1


def test_distinct_of_responses_that_are_too_short_for_an_ngram_is_one() -> None:
    assert distinct(torch.tensor([[5], [5]]), torch.ones(2, 1, dtype=torch.bool), 2) == 1
    assert distinct(torch.tensor([[5, 0], [5, 0]]), torch.tensor([[True, False]] * 2), 2) == 1


def test_the_norm_of_gradients_in_half_precision_does_not_overflow() -> None:
    # This is sqrt(3 · 300² + 400²), whose squares exceed the largest fp16 number.
    gradients = [torch.full((3,), 300.0, dtype=torch.float16), torch.tensor([400.0], dtype=torch.float16)]
    assert float(total_norm(gradients)) == pytest.approx(430000**0.5, rel=1e-6)


@pytest.mark.parametrize("name", ALARMS)
def test_the_documentation_explains_every_alarm_with_its_defaults(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rings_when = text.split(f"| `{name}` | ")[1].split(" | ")[0]
    alarm = ALARMS[name]
    if name != "not_finite":
        assert f"{alarm.threshold:g}" in rings_when
    if alarm.window > 1:
        assert f" {alarm.window} " in rings_when
