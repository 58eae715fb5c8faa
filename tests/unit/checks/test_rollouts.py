"""Checks of the first rollout, with made-up numbers and masks that pass or fail."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rlhf.checks.finding import tolerance
from lightning_rlhf.checks.rollouts import (
    mask_is_right,
    penalty_punishes,
    ratio_is_one,
    response_mask,
    responses_end,
    sampler_agrees,
    scores_differ,
    starts_at_reference,
)
from lightning_rlhf.experience import Sequences
from lightning_rlhf.ops import kl
from lightning_rlhf.rollout import credit as credit_module
from lightning_rlhf.rollout.credit import Credit
from lightning_rlhf.rollout.shaping import RewardShaping

STOP = 9


@pytest.mark.parametrize(
    ("tokens", "mask", "finished", "right"),
    [
        ([5, STOP, 0, 0], "xx..", True, True),
        ([STOP, 0, 0, 0], "x...", True, True),
        ([5, 6, 7, 8], "xxxx", False, True),
        ([5, 6, 7, STOP], "xxxx", True, True),
        # The masks lack the stop token, have one token too many, or are moved by one.
        ([5, STOP, 0, 0], "x...", True, False),
        ([5, STOP, 0, 0], "xxx.", True, False),
        ([5, STOP, 0, 0], ".xx.", True, False),
        # The masks continue after the first stop token, have a hole, are cut short, or are empty.
        ([5, STOP, 6, STOP], "xxxx", True, False),
        ([5, 6, STOP, 0], "x.x.", True, False),
        ([5, 6, 7, 8], "xxx.", False, False),
        ([5, 6, 7, 8], "....", False, False),
        # A response is wrongly marked as ended, or as not ended.
        ([5, 6, 7, 8], "xxxx", True, False),
        ([5, STOP, 0, 0], "xx..", False, False),
    ],
)
def test_a_mask_is_right_up_to_and_including_the_first_stop_token(
    tokens: list[int], mask: str, finished: bool, right: bool
) -> None:
    # The prompt ends with a stop token, which does not count.
    counts = torch.tensor([[mark == "x" for mark in mask]])
    ids = torch.tensor([[4, STOP, *tokens]])
    sequences = Sequences(ids, torch.cat([torch.ones(1, 2, dtype=torch.bool), counts], 1), counts)
    assert mask_is_right(sequences, torch.tensor([finished]), (3, STOP)).tolist() == [right]


def test_one_wrong_mask_is_an_error() -> None:
    assert response_mask(torch.tensor([True, True])).status == "ok"
    finding = response_mask(torch.tensor([True, False]))
    assert finding.status == "error"
    assert finding.found.startswith("1 of 2 response masks end with")


@pytest.mark.parametrize(
    ("check", "name"), [(starts_at_reference, "KL at the start"), (ratio_is_one, "ratio at the start")]
)
@pytest.mark.parametrize(("distance", "status"), [(0.0, "ok"), (1e-3, "ok"), (2e-3, "error"), (float("nan"), "error")])
def test_what_is_equal_before_learning_is_equal_up_to_rounding(
    check: Any, name: str, distance: float, status: str
) -> None:
    finding = check(distance, 1e-3)
    assert (finding.check, finding.status) == (name, status)


@pytest.mark.parametrize(("mismatch", "probed", "status"), [(0, 0, "ok"), (0.1, 0, "error"), (0, 0.1, "error")])
def test_sampler_and_scorer_agree_at_two_temperatures(mismatch: float, probed: float, status: str) -> None:
    assert sampler_agrees(mismatch, probed, 1e-3).status == status


def test_half_precision_is_allowed_more() -> None:
    assert 5e-4 < tolerance(torch.float32, "32-true") < 2e-3
    assert tolerance(torch.float32, "bf16-mixed") == tolerance(torch.bfloat16, "32-true") > 0.01


@pytest.mark.parametrize(
    ("scores", "status"),
    [([0.0, 1.0], "ok"), ([1.0, 1.0], "warning"), ([0.0, float("nan")], "error"), ([0.0, float("inf")], "error")],
)
def test_scores_are_numbers_that_differ(scores: list[float], status: str) -> None:
    assert scores_differ(torch.tensor(scores)).status == status


def test_a_model_that_never_ends_is_a_warning() -> None:
    assert responses_end(torch.tensor([False, True])).found.startswith("50% of 2 responses")
    assert responses_end(torch.tensor([False, True])).status == "ok"
    assert responses_end(torch.tensor([False, False])).status == "warning"


CREDITS = {
    **{f"{name} in the reward": Credit(kl_estimator=name) for name in kl.KL_IN_REWARD},
    **{f"{name} in the loss": Credit(kl_in="loss", kl_estimator=name) for name in kl.KL_IN_LOSS},
    "groups": Credit(advantage="rloo", num_samples_per_prompt=4),
    "shaped": Credit(shaping=RewardShaping(normalize=True, clip=1.0, missing_eos_penalty=1.0, whiten=True)),
}


@pytest.mark.parametrize("name", CREDITS)
@torch.no_grad()
def test_the_penalty_punishes(name: str) -> None:
    (finding,) = penalty_punishes(CREDITS[name])
    assert (finding.check, finding.status) == ("KL penalty", "ok")


@pytest.mark.parametrize("name", CREDITS)
def test_a_penalty_with_the_wrong_sign_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, estimators = credit_module.shape_rewards, dict(credit_module.KL_IN_LOSS)

    def rewarded(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float, **scored: Tensor) -> Tensor:
        return shape(scores, kl, mask, kl_coef=-kl_coef, **scored)

    monkeypatch.setattr(credit_module, "shape_rewards", rewarded)
    for key, estimate in estimators.items():
        monkeypatch.setitem(credit_module.KL_IN_LOSS, key, lambda new, ref, estimate=estimate: -estimate(new, ref))
    (finding,) = penalty_punishes(replace(CREDITS[name]))
    assert finding.status == "error"
