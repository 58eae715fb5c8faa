"""Every algorithm finds the optimum of the KL-regularised objective, known in closed form, through real rollouts."""

from pathlib import Path
from typing import Any

import pytest
from proofs.closed_form import token_rewards, train

from lightning_rlhf import TextReward
from lightning_rlhf.modules.ppo_loss import PPOLoss
from lightning_rlhf.rollout.credit import Credit

GROUP = 8
# Whole responses of up to two tokens, with the KL penalty in the rewards.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"credit": Credit()},
    "grpo_no_std": {"credit": Credit(advantage="grpo_no_std", num_samples_per_prompt=GROUP)},
    "rloo": {"credit": Credit(advantage="rloo", num_samples_per_prompt=GROUP)},
    "reinforce_pp": {"credit": Credit(advantage="reinforce_pp")},
    "reinforce_pp_baseline": {"credit": Credit(advantage="reinforce_pp_baseline", num_samples_per_prompt=GROUP)},
}
# Responses of one token: the KL at this token is the whole KL, so a penalty in the loss has the same optimum.
ONE_TOKEN: dict[str, dict[str, Any]] = {
    "rloo, KL in the loss by k2": {
        "credit": Credit(advantage="rloo", num_samples_per_prompt=GROUP, kl_in="loss", kl_estimator="k2")
    },
    "rloo, KL in the loss by k3+": {
        "credit": Credit(advantage="rloo", num_samples_per_prompt=GROUP, kl_in="loss", kl_estimator="k3+")
    },
    # A group mean that includes the response itself shrinks its advantage by (G - 1) / G, but not a KL penalty in the
    # loss. The penalty therefore acts as if beta were larger by the inverse factor.
    "grpo_no_std, KL in the loss by k2": {
        "credit": Credit(advantage="grpo_no_std", num_samples_per_prompt=2, kl_in="loss", kl_estimator="k2"),
        "beta": 0.3,
        "reached_beta": 0.6,
        "iterations": 160,
    },
    "ratio of sequences, fixed length": {
        "credit": Credit(advantage="grpo_no_std", num_samples_per_prompt=GROUP),
        "loss": PPOLoss(policy="gspo", aggregation="fixed_length"),
    },
    "remax": {"credit": Credit(advantage="remax"), "iterations": 120},
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_reaches_the_optimum_over_sequences(algorithm: str, tmp_path: Path) -> None:
    outcome = train(tmp_path, length=2, iterations=80, **ALGORITHMS[algorithm])
    assert outcome.start > 0.4
    assert outcome.end < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_scores_of_tokens_have_the_optimum_of_their_sum(algorithm: str, tmp_path: Path) -> None:
    reward = TextReward(token_rewards)
    outcome = train(tmp_path, length=2, iterations=80, reward=reward, **ALGORITHMS[algorithm])
    assert outcome.start > 0.4
    assert outcome.end < 0.03


@pytest.mark.parametrize("algorithm", ONE_TOKEN)
def test_an_algorithm_reaches_the_optimum_over_tokens(algorithm: str, tmp_path: Path) -> None:
    outcome = train(tmp_path, length=1, **({"iterations": 40} | ONE_TOKEN[algorithm]))
    assert outcome.start > 0.3
    assert outcome.end < 0.03


def test_another_beta_has_another_optimum_and_it_is_reached_too(tmp_path: Path) -> None:
    outcome = train(tmp_path, length=1, iterations=40, beta=0.7, **ALGORITHMS["rloo"])
    assert 0.2 < outcome.start < 0.3
    assert outcome.end < 0.03
