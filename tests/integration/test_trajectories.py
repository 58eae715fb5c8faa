"""The first ten steps of each stage equal stored ones, so that a refactor that changes a number is detected.

If a change is intended, store them again: STORE_TRAJECTORIES=1 python -m pytest tests/integration/test_trajectories.py
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Recorder, trainer

from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.shaping import RewardShaping

STORE = Path(__file__).with_name("trajectories.json")
STEPS = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {},
    "reward": {},
    "dpo": {},
    "ppo": {"kl_coef": 0.2},
    "ppo, grpo": {
        "kl_coef": 0.2,
        "credit": Credit(
            advantage="grpo",
            num_samples_per_prompt=4,
            kl_in="loss",
            kl_estimator="k3",
            shaping=RewardShaping(normalize=True, missing_eos_penalty=1.0),
        ),
        "loss": PPOLoss(policy="gspo", aggregation="sequence_mean", clip_range_high=0.3, ent_coef=0.01),
    },
}


class Rollouts(RLHFCallback):
    """Records score and KL of every rollout."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.kls: list[float] = []

    def on_rollout_end(self, trainer: Any, module: Any, rollout: Rollout) -> None:
        self.scores.append(rollout.metrics["score_mean"])
        self.kls.append(rollout.metrics["kl"])


@pytest.mark.parametrize("name", SETTINGS)
def test_ten_steps_are_those_that_were_stored(name: str, parts: Callable[..., Any], tmp_path: Path) -> None:
    losses, rollouts = Recorder(), Rollouts()
    module, data = parts(name.split(",")[0], **SETTINGS[name])
    # The numbers are those of whole minibatches.
    data.drop_last = True
    trainer(tmp_path, losses, rollouts, max_epochs=10, max_steps=STEPS).fit(module, data)
    found = {"loss": losses.losses, "score": rollouts.scores, "kl": rollouts.kls}
    assert len(losses.losses) == STEPS
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    if os.environ.get("STORE_TRAJECTORIES"):
        STORE.write_text(json.dumps({**stored, name: found}, indent=1) + "\n")
        return
    for quantity, values in found.items():
        assert values == pytest.approx(stored[name][quantity], rel=1e-3, abs=1e-5), quantity
