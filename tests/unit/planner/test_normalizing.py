"""The plan of normalising a reward model, with a policy that exists only while it samples."""

from typing import Any

import pytest
from tiny_jobs import ACTOR, BLOCK, CRITIC, job, kinds

from lightning_rlhf.planner.layout import layout
from lightning_rlhf.planner.phases import moments
from lightning_rlhf.planner.plan import Plan


def normalizing(**changes: Any) -> Plan:
    return Plan(job(**{"stage": "reward", "critic": None, "reward": None, "normalizing_length": 6} | changes))


def test_the_policy_is_held_beside_the_reward_model_and_its_optimizer_while_it_samples() -> None:
    plan = normalizing(rollout_batch_size=30, rollout_micro_batch_size=20, prefill_tokens=4096)
    assert kinds(plan, "normalize")["parameters"] == 4 * (CRITIC + ACTOR)
    # To the planner, the bias of the reward model is trained too.
    assert kinds(plan, "normalize")["optimizer"] == kinds(plan, "update")["optimizer"] == 8 * CRITIC
    # 20 responses are drawn at a time, and none waits. The cache has 20 rows · 16 columns · 5 blocks · 32 numbers,
    # twice, of 4 bytes. Beside it lie, for a moment, the prompts of 8 tokens that have been read.
    held = [moment.held for moment in moments(plan.job) if moment.phase == "normalize"]
    column = 20 * 5 * 32 * 2 * 4
    assert max(each["policy", "kv_cache"] for each in held) == (16 + 8) * column
    # The policy is gone when the reward model scores, and did not exist in training.
    assert held[-1]["policy", "parameters"] == 0
    assert kinds(plan, "update")["parameters"] == kinds(plan, "export")["parameters"] == 4 * CRITIC
    assert set(plan.record()["parameters"]) == {"actor"}


@pytest.mark.parametrize("gather", [True, False])
def test_the_policy_is_divided_where_no_process_is_to_hold_the_net_that_samples(gather: bool) -> None:
    node = {"_target_": "FSDP2Strategy", "gather_for_generation": gather}
    plan = normalizing(layout=layout(node), processes=4, rollout_batch_size=8)
    held = [moment.held for moment in moments(plan.job) if moment.phase == "normalize"]
    # Sharded, it has a share, the weights outside its blocks, and a block twice; otherwise all its weights.
    outside = ACTOR - 5 * BLOCK
    expected = (4 * ACTOR, 0) if gather else (ACTOR, 4 * (outside + 2 * BLOCK))
    assert (held[0]["policy", "parameters"], held[0]["policy", "gathered"]) == expected


def test_a_reward_model_that_is_not_normalised_has_no_such_phase() -> None:
    assert "normalize" not in normalizing(normalizing_length=0).phases
