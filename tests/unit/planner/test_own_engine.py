"""The memory of an engine that has weights of its own."""

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.plan import Plan

TINY = ["stage=ppo", "model=tiny", "reward=length"]


def planned(*overrides: str) -> Plan:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return Plan(job_of(compose("plan", [*TINY, *overrides]), "ppo"))


def held(plan: Plan, phase: str) -> dict[str, int]:
    """Returns the largest memory of no role that a phase holds, by kind."""
    found: dict[str, int] = {}
    for moment in moments(plan.job):
        if moment.phase == phase:
            for (role, kind), size in moment.held.items():
                if not role:
                    found[kind] = max(found.get(kind, 0), size)
    return found


@pytest.mark.parametrize(("dtype", "size"), [("null", 4), ("bfloat16", 2)])
def test_an_engine_in_the_process_holds_a_copy_of_the_weights_and_its_cache(dtype: str, size: int) -> None:
    plan = planned("rollout=vllm", "rollout.engine.cache_gib=0.5", f"rollout.engine.dtype={dtype}")
    weights = size * run_passes(plan.job).sizes.generator.count
    for phase in ("rollout", "scoring"):
        assert held(plan, phase)["kv_cache"] == 2**29
        assert held(plan, phase)["parameters"] == weights


def test_it_sleeps_in_an_update_on_a_gpu_only() -> None:
    on_cpu, on_gpu = planned("rollout=vllm"), planned("rollout=vllm", "trainer=gpu", "trainer.devices=1")
    assert held(on_cpu, "update")["kv_cache"] == 2**30
    assert "kv_cache" in held(on_gpu, "rollout")
    assert "kv_cache" not in held(on_gpu, "update")


def test_servers_and_the_trained_model_need_no_copy() -> None:
    servers = planned("rollout=vllm_server", "rollout.engine.urls=[http://127.0.0.1:8000]")
    itself = planned("rollout=padded")
    for plan in (servers, itself):
        assert "kv_cache" not in held(plan, "rollout")
    # The trained model has a cache of its own in a rollout, and one that only scores has none.
    kinds = {kind for moment in moments(servers.job) for _, kind in moment.held}
    assert "kv_cache" not in kinds
    assert "kv_cache" in {kind for moment in moments(itself.job) for _, kind in moment.held}
