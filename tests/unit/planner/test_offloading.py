"""Plans of strategies that offload, compared with those that do not: what leaves the device is on the host, once."""

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_module
from tiny_jobs import kinds

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.memory import by_kind
from lightning_rlhf.planner.plan import Plan

BASE = ["stage=ppo", "model=tiny", "trainer=gpu", "trainer.devices=2", "trainer.num_nodes=2"]
BASE += ["model.dtype=bfloat16", "trainer.precision=bf16-true", "ppo.module.minibatch_size=32"]


def plan_of(*overrides: str) -> Plan:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return Plan(job_of(compose("plan", [*BASE, *overrides]), "ppo"))


@pytest.mark.parametrize(
    ("offloads", "plain", "weights"),
    [
        (["strategy=deepspeed_zero2_offload"], "deepspeed_zero2", False),
        (["strategy=deepspeed_zero3_offload"], "deepspeed_zero3", True),
        (["strategy=colossalai_zero1_cpu"], "colossalai_zero1", False),
        (["strategy=colossalai_zero2_cpu"], "colossalai_zero2", False),
        (["strategy=colossalai_gemini_cpu"], "colossalai_gemini", True),
        (["strategy=fsdp", "trainer.strategy.cpu_offload=true"], "fsdp", True),
    ],
)
def test_what_leaves_the_device_comes_to_the_host_once(offloads: list[str], plain: str, weights: bool) -> None:
    off, on = plan_of(*offloads), plan_of(f"strategy={plain}")
    host, device, before = by_kind(off.host["training"]), kinds(off, "rollout"), kinds(on, "rollout")
    assert off.peak.total < on.peak.total
    assert "optimizer" not in device
    # The host holds the shares of both processes of a machine.
    assert host["optimizer"] == pytest.approx(2 * before["optimizer"], rel=1e-3)
    if weights:
        assert device.get("parameters", 0) == 0
        assert host["parameters"] == pytest.approx(2 * before["parameters"], rel=1e-3)
    else:
        assert device["parameters"] == before["parameters"]
    assert not on.host["training"]


def test_what_rests_on_a_disk_is_neither_here_nor_there() -> None:
    plan = plan_of("strategy=deepspeed_zero3_nvme")
    assert not {"optimizer", "parameters"} & set(kinds(plan, "rollout"))
    assert not plan.host["training"]


def test_fsdp_offloads_weights_and_gradients_in_their_own_dtype() -> None:
    plan = plan_of("strategy=fsdp", "trainer.strategy.cpu_offload=true")
    sizes = {role: net for role, net in plan.record()["trained"].items() if net}
    # In bf16, gradients and two averages have 2 bytes each, and half of all of it is on each machine.
    assert by_kind(plan.host["training"])["gradients"] == pytest.approx(sum(sizes.values()) * 2 / 2, abs=9)
    assert by_kind(plan.host["training"])["optimizer"] == pytest.approx(sum(sizes.values()) * 4 / 2, abs=9)
    assert replace(plan.job, layout=plan.job.layout.on_cpus()).layout.offloads is False
