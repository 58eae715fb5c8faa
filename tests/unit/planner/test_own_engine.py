"""The memory of an engine that has weights of its own."""

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.plan import Plan

TINY = ["model=tiny", "reward=length"]


GPU = ["trainer=gpu", "trainer.devices=1"]


def planned(*overrides: str, stage: str = "ppo") -> Plan:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return Plan(job_of(compose("plan", [f"stage={stage}", *TINY, *overrides]), stage))


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


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "remax", "reinforce_pp"])
def test_all_algorithms_with_rollouts_have_it(algorithm: str) -> None:
    assert held(planned("rollout=vllm", f"algorithm={algorithm}"), "rollout")["kv_cache"] == 2**30


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_stage_that_answers_held_out_prompts_has_it_too(stage: str, on_gpu: bool) -> None:
    where = GPU if on_gpu else []
    plan = planned("rollout=vllm", *where, stage=stage)
    assert held(plan, "evaluation")["kv_cache"] == 2**30
    assert held(plan, "evaluation")["parameters"] == 4 * run_passes(plan.job).sizes.generator.count
    assert ("kv_cache" in held(plan, "update")) != on_gpu
    nothing_to_answer = {"sft": "sft.data.prompts_held_out=null", "dpo": "dpo.data.answer_prompts=false"}[stage]
    for other in (planned(*where, stage=stage), planned("rollout=vllm", *where, nothing_to_answer, stage=stage)):
        assert "evaluation" not in other.phases
        more = plan.phases["update"].total - other.phases["update"].total
        assert more == (0 if on_gpu else sum(held(plan, "evaluation").values()))


@pytest.mark.parametrize("on_gpu", [True, False])
def test_it_draws_the_samples_that_normalise_a_reward_model(on_gpu: bool) -> None:
    plan = planned("rollout=vllm", *(GPU if on_gpu else []), stage="reward")
    (moment,) = [moment for moment in moments(plan.job) if moment.what == "the engine samples"]
    policy = run_passes(plan.job).sizes.policy
    assert policy is not None
    assert moment.phase == "normalize"
    assert moment.held["", "kv_cache"] == 2**30
    assert moment.held["", "parameters"] == 4 * policy.count
    # The policy itself stays on the CPU, whose memory is that of the device if there is no GPU.
    assert moment.held["policy", "parameters"] == (0 if on_gpu else policy.size)
    # It does not exist before, and not while the samples are scored.
    others = [other for other in moments(plan.job) if other is not moment and other.what != moment.what]
    assert not any(kind == "kv_cache" and size for other in others for (_, kind), size in other.held.items())


def test_servers_and_the_trained_model_need_no_copy() -> None:
    servers = planned("rollout=vllm_server", "rollout.engine.urls=[http://127.0.0.1:8000]")
    itself = planned("rollout=padded")
    for plan in (servers, itself):
        assert "kv_cache" not in held(plan, "rollout")
    # The trained model has a cache of its own in a rollout, and one that only scores has none.
    kinds = {kind for moment in moments(servers.job) for _, kind in moment.held}
    assert "kv_cache" not in kinds
    assert "kv_cache" in {kind for moment in moments(itself.job) for _, kind in moment.held}
