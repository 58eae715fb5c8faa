"""Runs whose reward fails for some responses go on without them."""

from collections.abc import Callable
from math import isfinite, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from support import trainer

from lightning_rlhf import TextReward
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.rollout.credit import Credit


class Watch(RLHFCallback):
    """Keeps the rollouts and the answers to held-out prompts."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []
        self.answers: list[list[dict[str, Any]]] = []

    def on_rollout_end(self, trainer: Any, module: Any, rollout: Rollout) -> None:
        self.rollouts.append(rollout)

    def on_evaluation_end(self, trainer: Any, module: Any, iteration: int, samples: list[dict[str, Any]]) -> None:
        self.answers.append(samples)


def flaky(prompts: list[str], responses: list[str]) -> list[float]:
    """Has no score for some responses, whichever batch they are in."""
    return [nan if len(response) % 3 == 1 else float(len(response)) for response in responses]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"credit": Credit(advantage="grpo", num_samples_per_prompt=2), "critic": None},
        {"credit": Credit(advantage="remax"), "critic": None},
        {"minibatch_size": 1},
    ],
    ids=["ppo", "grpo", "remax", "single rows"],
)
def test_a_run_goes_on_without_the_responses_that_get_no_score(
    settings: dict[str, Any], parts: Callable, tmp_path: Path
) -> None:
    watch = Watch()
    module, data = parts("ppo", reward=TextReward(flaky, on_error="drop"), **settings)
    trainer(tmp_path, watch, limit_val_batches=1, num_sanity_val_steps=1).fit(module, data)
    assert len(watch.rollouts) == 1
    group = module.credit.num_samples_per_prompt
    for rollout in watch.rollouts:
        assert not any(map(lambda score: score != score, flaky(rollout.prompts, rollout.responses)))
        assert rollout.scores.tolist() == flaky(rollout.prompts, rollout.responses)
        assert rollout.metrics["score_mean"] == pytest.approx(float(rollout.scores.mean()))
        assert 0 < len(rollout.scores) < 16
        assert len(rollout.scores) % group == 0
        assert rollout.metrics["dropped_rate"] == 1 - len(rollout.scores) / 16
        assert len(rollout.messages) == len(rollout.prompts) == len(rollout.kl) == len(rollout.scores)
        assert all(map(isfinite, rollout.metrics.values()))
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    # Held-out answers without a score are not in the mean.
    answers = watch.answers[0]
    known = [answer["score"] for answer in answers if "score" in answer]
    assert 0 < len(known) < len(answers)
    assert known == [score for score in flaky([], [answer["response"] for answer in answers]) if isfinite(score)]


def test_dropped_responses_do_not_move_the_weights(parts: Callable, tmp_path: Path) -> None:
    """Whatever the reward would say about a dropped response, the update is the same."""

    def scores(of_dropped: float | str) -> Any:
        def score(prompts: list[str], responses: list[str]) -> list[Any]:
            return [of_dropped if score != score else score for score in flaky(prompts, responses)]

        return TextReward(score, on_error="drop")

    trained = []
    for of_dropped in (nan, "nothing"):
        module, data = parts("ppo", reward=scores(of_dropped))
        trainer(tmp_path, max_epochs=1).fit(module, data)
        trained.append(torch.cat([weight.detach().flatten() for weight in module.roles.actor.parameters()]))
    module, data = parts("ppo", reward=scores(1e3))
    trainer(tmp_path, max_epochs=1).fit(module, data)
    other = torch.cat([weight.detach().flatten() for weight in module.roles.actor.parameters()])
    assert torch.equal(*trained)
    assert not torch.equal(trained[0], other)


def test_without_any_score_the_run_ends(parts: Callable, tmp_path: Path) -> None:
    def never(prompts: list[str], responses: list[str]) -> list[float]:
        raise ConnectionError("down")

    module, data = parts("ppo", reward=TextReward(never, on_error="drop"))
    with pytest.raises(UserError, match="^on_error=drop: the reward failed for 16 of the 16 responses"):
        trainer(tmp_path).fit(module, data)
