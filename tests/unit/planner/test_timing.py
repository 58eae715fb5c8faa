"""The time of an iteration against arithmetic by hand."""

import pytest
from tiny_jobs import ACTOR, job

from lightning_rlhf.planner.phases import run_passes
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.speed import Speed
from lightning_rlhf.planner.timing import decoded_bytes


def test_decoding_reads_weights_and_cache_once_for_each_token_of_a_batch() -> None:
    # 8 responses in batches of 3 are 3 batches of 6 tokens each; prompts have 8 tokens, so a row has 14.
    cache = run_passes(job()).cache["decoding"]
    # The cache holds 8 tokens at the start and 14 at the end, on average 11 / 14 of its final size.
    expected = 3 * 6 * (4 * ACTOR + cache * 11 / 14)
    assert decoded_bytes(job(), run_passes(job())) == pytest.approx(expected)
    # Two processes have four responses each, hence two batches.
    two = job(processes=2)
    assert decoded_bytes(two, run_passes(two)) == pytest.approx(expected * 2 / 3)


def test_weights_that_autocast_casts_are_read_in_16_bits() -> None:
    mixed = job(precision="bf16-mixed")
    passes = run_passes(mixed)
    expected = 3 * 6 * (2 * ACTOR + passes.cache["decoding"] * 11 / 14)
    assert decoded_bytes(mixed, passes) == pytest.approx(expected)


def test_a_rollout_is_bound_by_memory_unless_the_memory_is_fast() -> None:
    plan = Plan(job())
    slow = plan.times(Speed(flops=1e12, mfu=0.5, bandwidth=1e9, mbu=0.5))
    assert {phase: time.bound_by for phase, time in slow.items()} == {
        "rollout": "memory",
        "scoring": "compute",
        "update": "compute",
    }
    # 5e8 bytes and 5e11 operations a second; reading the prompts takes the rest.
    reading = decoded_bytes(plan.job, run_passes(plan.job)) / 5e8
    assert reading < slow["rollout"].seconds < reading + plan.flops["rollout"] / 5e11
    assert slow["update"].seconds == pytest.approx(plan.flops["update"] / 5e11)
    fast = plan.times(Speed(flops=1e12, mfu=0.5, bandwidth=1e18, mbu=0.5))
    assert fast["rollout"].bound_by == "compute"
    assert fast["rollout"].seconds == pytest.approx(plan.flops["rollout"] / 5e11)


def test_a_stage_that_does_not_sample_is_bound_by_its_operations() -> None:
    plan = Plan(job(stage="sft", critic=None, reward=None))
    times = plan.times(Speed(flops=1e12, mfu=0.5, bandwidth=1.0, mbu=0.5))
    assert {phase: time.bound_by for phase, time in times.items()} == {"update": "compute"}
