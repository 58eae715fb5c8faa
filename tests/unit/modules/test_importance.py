"""The importance correction in the loss of an update."""

from math import log
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Sequences
from lightning_rlhf.models.roles import TokenStats
from lightning_rlhf.modules.importance import Importance
from lightning_rlhf.modules.ppo_loss import PPOLoss, Terms
from lightning_rlhf.ops.aggregation import MinibatchSize
from lightning_rlhf.ops.kl import KL_IN_LOSS
from lightning_rlhf.rollout.dataset import Minibatch

MASK = torch.tensor([[True, True], [True, False]])
OLD = torch.full((2, 2), -3.0)
# The engine drew the tokens with 1/3 and 2 times the probability of the actor in the first response, and with 4/5 of it
# in the second.
SAMPLER = OLD - torch.tensor([[3.0, 0.5], [1.25, 7.0]]).log()
ADVANTAGES = torch.tensor([[2.0, 1.0], [-4.0, 99.0]])


def terms(importance: Importance | None) -> Terms:
    experience = Experience(
        Sequences(torch.ones(2, 3, dtype=torch.long), torch.cat([torch.ones(2, 1).bool(), MASK], dim=1), MASK),
        old_logprobs=OLD,
        ref_logprobs=OLD - log(2),
        advantages=ADVANTAGES,
        old_values=None,
        returns=None,
        kl_coef=torch.full((2, 1), 0.5),
        sampler_logprobs=SAMPLER,
        weights_version=torch.zeros(2, 1, dtype=torch.long),
    )
    new = TokenStats(OLD.clone(), torch.zeros(2, 2))
    loss = PPOLoss(importance=importance)
    size = MinibatchSize(num_sequences=2, num_tokens=3, max_length=2)
    return loss(new, None, Minibatch(experience, size), KL_IN_LOSS["k2"])


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        # The ratio to the old actor is 1, so that a token's loss is its advantage times -1, divided by 3 tokens.
        (None, -(2 + 1 - 4) / 3),
        # Factors of 2 (3 is above the ceiling), 1/2 and 5/4.
        (Importance(), -(2 * 2 + 0.5 * 1 - 1.25 * 4) / 3),
        # The first response has the factor 3 · 1/2.
        (Importance(level="sequence"), -(1.5 * 2 + 1.5 * 1 - 1.25 * 4) / 3),
        (Importance(level="sequence", ceiling=1.2), -(1.2 * 2 + 1.2 * 1 - 1.2 * 4) / 3),
    ],
)
def test_each_policy_loss_is_multiplied_by_its_truncated_ratio(importance: Importance | None, expected: float) -> None:
    assert_close(terms(importance).sums["policy_loss"], torch.tensor(expected))


def test_the_kl_penalty_is_not_corrected() -> None:
    without, corrected = terms(None), terms(Importance())
    assert_close(corrected.sums["kl_loss"], without.sums["kl_loss"])
    assert_close(corrected.loss - corrected.sums["policy_loss"], without.loss - without.sums["policy_loss"])
    assert corrected.sums["kl_loss"] > 0


def test_the_ratios_are_metrics_if_they_are_corrected() -> None:
    means = terms(Importance()).means
    # (3 + 1/2 + 5/4) / 3; one of three tokens is above the ceiling.
    assert_close(means["importance_mean"], torch.tensor(4.75 / 3))
    assert_close(means["importance_max"], torch.tensor(3.0))
    assert_close(means["importance_clipped"], torch.tensor(1 / 3))
    assert not [name for name in terms(None).means if name.startswith("importance")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"level": "word"}, "importance.level=word"), ({"ceiling": 0.5}, "importance.ceiling=0.5: must be at least 1")],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Importance(**settings)
