"""The loss of an update, computed by hand."""

import sys
from math import log, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Experience, Sequences
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.modules.ppo_loss import PPOLoss, Terms
from lightning_rlhf.ops.aggregation import MinibatchSize
from lightning_rlhf.ops.kl import KL_IN_LOSS
from lightning_rlhf.ops.losses import POLICY_LOSSES
from lightning_rlhf.rollout.dataset import Minibatch

# Two of the three responses of a minibatch that has 6 tokens in all and at most 5 tokens a response.
MASK = torch.tensor([[True, True], [True, False]])
SIZE = MinibatchSize(num_sequences=3, num_tokens=6, max_length=5)
# The ratios are 1.5 and 1, and 0.5; the values under the padding must not be read.
NEW = torch.tensor([[log(1.5), 0.0], [log(0.5), -300.0]])
ENTROPY = torch.tensor([[1.0, 2.0], [3.0, 99.0]])
VALUES = torch.tensor([[1.0, 2.0], [0.5, 99.0]])


def batch(mask: Tensor = MASK, kl_coef: float = 0.0) -> Minibatch:
    zeros = torch.zeros(2, 2)
    whole = torch.cat([torch.ones(2, 1, dtype=torch.bool), mask], dim=1)
    experience = Experience(
        Sequences(torch.ones(2, 3, dtype=torch.long), whole, mask),
        old_logprobs=zeros,
        ref_logprobs=torch.tensor([[0.0, log(2.0)], [0.0, 0.0]]),
        advantages=torch.tensor([[2.0, 1.0], [1.0, 99.0]]),
        old_values=torch.zeros(2, 2),
        returns=torch.tensor([[1.0, 1.0], [0.5, 99.0]]),
        kl_coef=torch.full((2, 1), kl_coef),
        sampler_logprobs=zeros,
        weights_version=torch.zeros(2, 1, dtype=torch.long),
    )
    return Minibatch(experience, SIZE)


def terms(
    *, critic: bool = False, kl: str | None = None, kl_coef: float = 0.0, new: Tensor = NEW, **settings: Any
) -> Terms:
    loss = PPOLoss(**settings)
    return loss(TokenStats(new, ENTROPY), VALUES if critic else None, batch(kl_coef=kl_coef), kl and KL_IN_LOSS[kl])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # The losses are -2 · 1.2 (clipped) and -1 in the first response, and -0.5 in the second.
        ("token_mean", -(2.4 + 1 + 0.5) / 6),
        ("sequence_mean", -((2.4 + 1) / 2 + 0.5) / 3),
        ("fixed_length", -(2.4 + 1 + 0.5) / 15),
    ],
)
def test_the_policy_loss_is_weighed_by_its_aggregation(aggregation: str, expected: float) -> None:
    result = terms(aggregation=aggregation)
    assert_close(result.loss, torch.tensor(expected))
    assert_close(result.sums["policy_loss"], torch.tensor(expected))
    assert_close(result.means["clip_fraction"], torch.tensor(1 / 3))
    assert_close(result.means["approx_kl"], torch.tensor((log(1.5) ** 2 + log(0.5) ** 2) / 2 / 3))


def test_the_ratio_of_whole_responses_is_one_of_the_choices() -> None:
    # Both tokens of the first response have the ratio sqrt(1.5), clipped to 1.2: the losses are -2.4 and -1.2.
    assert_close(terms(policy="gspo").loss, torch.tensor(-(2.4 + 1.2 + 0.5) / 6))


def test_the_clip_ranges_reach_the_policy_loss() -> None:
    assert_close(terms(clip_range=0.1).loss, torch.tensor(-(2.2 + 1 + 0.5) / 6))
    assert_close(terms(clip_range_high=0.4).loss, torch.tensor(-(2.8 + 1 + 0.5) / 6))


def test_an_option_reaches_its_policy_loss() -> None:
    worse = batch()
    worse = worse._replace(experience=worse.experience._replace(advantages=-worse.experience.advantages))
    stats = TokenStats(NEW + log(10), ENTROPY)
    # The ratios are 15, 10 and 5 with advantages -2, -1, -1: the losses are not bounded, bounded at 3, and at 4.
    for loss, expected in [
        (PPOLoss(), (30 + 10 + 5) / 6),
        (PPOLoss(policy="dual_clip"), (6 + 3 + 3) / 6),
        (PPOLoss(policy="dual_clip", options={"dual_clip": 4}), (8 + 4 + 4) / 6),
    ]:
        assert_close(loss(stats, None, worse, None).loss, torch.tensor(expected))


def test_a_policy_loss_of_ones_own_is_found_by_module_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # monkeypatch undoes the registration at the end of the test.
    monkeypatch.setitem(POLICY_LOSSES, "squared", POLICY_LOSSES["clipped"])
    (tmp_path / "losses_of_ones_own.py").write_text(
        "from lightning_rlhf.ops.losses import TokenLosses, policy_loss, token_log_ratio\n\n\n"
        '@policy_loss("squared")\n'
        "def squared(batch, *, clip_range, weight: float):\n"
        "    ratio = token_log_ratio(batch.logprobs, batch.old_logprobs, batch.mask)\n"
        "    return TokenLosses(weight * ratio**2 + clip_range, ratio, ratio.abs() > 0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "losses_of_ones_own", raising=False)
    result = terms(policy="losses_of_ones_own:squared", options={"weight": 2.0}, clip_range=0.5)
    squares = log(1.5) ** 2 + log(0.5) ** 2
    assert_close(result.loss, torch.tensor((2 * squares + 3 * 0.5) / 6))
    # Only |log 0.5| is above 0.5.
    assert_close(result.means["clip_fraction"], torch.tensor(1 / 3))
    assert_close(result.means["approx_kl"], torch.tensor(squares / 2 / 3))
    with pytest.raises(UserError) as caught:
        PPOLoss(policy="losses_of_ones_own:squared", options={"wieght": "2"})
    assert str(caught.value).splitlines() == [
        "options.wieght=2: the options of policy=losses_of_ones_own:squared are weight; did you mean options.weight?",
        "options.weight is not set: policy=losses_of_ones_own:squared needs it",
    ]


def test_the_value_loss_enters_with_its_weight_and_every_token_counts_the_same() -> None:
    without, result = terms(aggregation="sequence_mean"), terms(critic=True, aggregation="sequence_mean", vf_coef=0.5)
    # The old values are 0, and the clip range is 0.2. Values 1, 2, 0.5 and returns 1, 1, 0.5 give errors 0, 1, 0, and
    # 0.64, 0.64, 0.09 if clipped. The loss is half the larger ones, 0.64, 1, 0.09, over 6 tokens; two are clipped.
    value_loss = (0.64 + 1 + 0.09) / 2 / 6
    assert_close(result.sums["value_loss"], torch.tensor(value_loss))
    assert_close(result.loss - without.loss, torch.tensor(0.5 * value_loss))
    assert_close(result.means["value_clip_fraction"], torch.tensor(2 / 3))
    assert without.sums.keys() == {"policy_loss", "entropy"}
    wide = terms(critic=True, clip_range_value=10.0)
    assert_close(wide.sums["value_loss"], torch.tensor(1 / 2 / 6))


def test_the_entropy_bonus_lowers_the_loss() -> None:
    result = terms(ent_coef=0.1)
    assert_close(result.sums["entropy"], torch.tensor(6 / 6))
    assert_close(terms().loss - result.loss, torch.tensor(0.1))


def test_a_kl_in_the_loss_enters_with_its_weight_and_the_aggregation() -> None:
    # The distances to the reference are log 1.5 and -log 2, and log 0.5.
    k3 = [1 / 1.5 - 1 + log(1.5), 2 - 1 - log(2), 2 - 1 + log(0.5)]
    expected = ((k3[0] + k3[1]) / 2 + k3[2]) / 3
    without, result = terms(aggregation="sequence_mean"), terms(aggregation="sequence_mean", kl="k3", kl_coef=0.5)
    assert_close(result.sums["kl_loss"], torch.tensor(expected))
    assert_close(result.loss - without.loss, torch.tensor(0.5 * expected))
    k2 = (log(1.5) ** 2 + log(2) ** 2 + log(0.5) ** 2) / 2 / 6
    assert_close(terms(kl="k2", kl_coef=0.5).sums["kl_loss"], torch.tensor(k2))
    # Without a weight, the KL is still logged.
    assert_close(terms(kl="k2").loss, terms().loss)


@pytest.mark.parametrize("kl", ["k2", "k3", "k3+"])
def test_no_gradient_comes_from_under_the_padding(kl: str) -> None:
    # The values under the padding may be anything.
    new = NEW.masked_fill(~MASK, nan).requires_grad_()
    values = VALUES.clone().requires_grad_()
    entropy = ENTROPY.clone().requires_grad_()
    loss = PPOLoss(ent_coef=0.1)(TokenStats(new, entropy), values, batch(kl_coef=0.5), KL_IN_LOSS[kl]).loss
    loss.backward()
    for leaf in (new, values, entropy):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[~MASK].any()


def test_impossible_settings_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        PPOLoss(
            policy="dual_clip",
            options={"dual_clip": 1.0},
            aggregation="mean",  # type: ignore[arg-type]
            clip_range=1.0,
            clip_range_high=0.0,
            clip_range_value=0.0,
            vf_coef=-1.0,
        )
    assert str(caught.value).splitlines() == [
        "aggregation=mean: must be one of token_mean, sequence_mean, fixed_length",
        "clip_range=1.0: must lie in (0, 1)",
        "clip_range_high=0.0: must be positive",
        "clip_range_value=0.0: must be positive",
        "vf_coef=-1.0: must not be negative",
        "policy=dual_clip: dual_clip=1.0: must be above 1",
    ]


def test_an_unknown_policy_loss_names_all_that_there_are() -> None:
    with pytest.raises(UserError, match="^policy=clippd: expected one of clipped, dual_clip, gspo$"):
        PPOLoss(policy="clippd")
