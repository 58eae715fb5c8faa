"""A knob changes a plan as its setting changes a run, and the remedy is a line that can be typed."""

from dataclasses import replace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from tiny_jobs import SOURCE, job

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.planner.adam import step_work
from lightning_rlhf.planner.fitting import Limits, savings, smallest, turned
from lightning_rlhf.planner.knobs import knobs
from lightning_rlhf.planner.layout import Layout
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.weights import Weights

PPO = ["stage=ppo", "model=tiny", "trainer=gpu", "trainer.precision=32-true", "trainer.devices=2"]


def plan_of(*overrides: str) -> Plan:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", list(overrides))
    return Plan(job_of(config, config.stages[-1]))


@pytest.mark.parametrize(
    "base",
    [
        [*PPO, "strategy=ddp"],
        [*PPO, "strategy=deepspeed_zero2", "+trainer.strategy.reduce_bucket_size=1000"],
        [*PPO, "strategy=deepspeed_zero3_offload"],
        [*PPO, "strategy=ddp", "adapter=lora"],
        ["stage=sft", "model=tiny", "trainer=gpu"],
    ],
    ids=["ddp", "zero2", "offload", "lora", "sft"],
)
def test_a_knob_is_planned_as_its_setting_is(base: list[str]) -> None:
    plan = plan_of(*base)
    found = list(knobs(plan.job))
    assert len(found) >= 4
    for knob in found:
        # A setting of one strategy is not valid for another.
        kept = [given for given in base if not (knob.is_strategy and "trainer.strategy." in given)]
        names = {setting.split("=")[0] for setting in knob.setting.split()}
        settings = [given for given in kept if given.split("=")[0] not in names] + knob.setting.split()
        there, here = plan_of(*settings), turned(plan, [knob])
        assert (there.peak.total, there.host_peak) == (here.peak.total, here.host_peak), knob.setting


def test_adam_takes_no_memory_of_its_own_in_a_step() -> None:
    plan = Plan(job(on_gpu=True))
    knob = next(knob for knob in knobs(plan.job) if knob.setting == "optim=adamw_8bit")
    held = {"actor": Weights(10, 10, 40, 40, 40, 1, 10, 10, 10, 1, 0)}
    # On a GPU, another optimizer of torch needs one more tensor for all weights of a group: 10 numbers of 4 bytes.
    assert step_work(replace(plan.job, optimizer="torch.optim.NAdam"), held, 1) == {("", "optimizer"): 40}
    assert step_work(plan.job, held, 1) == {("", "optimizer"): 0}
    assert step_work(turned(plan, [knob]).job, held, 1) == {("", "optimizer"): 0}


@pytest.mark.parametrize(
    ("settings", "on_gpu", "expected"),
    [
        # PyTorch keeps one tensor for all weights of the group, 10 numbers of 4 bytes, or two for the largest weight,
        # which has 6 of the 10 numbers.
        ({}, True, 0),
        ({"fused": True}, True, 0),
        ({"fused": False}, True, 48),
        ({"foreach": False}, True, 48),
        ({"foreach": True}, True, 40),
        ({"foreach": True}, False, 40),
        ({"fused": False}, False, 48),
    ],
    ids=str,
)
def test_an_adam_whose_form_the_user_has_chosen_takes_the_memory_of_that_form(
    settings: dict[str, bool], on_gpu: bool, expected: int
) -> None:
    held = {"actor": Weights(10, 10, 40, 40, 40, 1, 6, 10, 10, 1, 0)}
    assert step_work(job(on_gpu=on_gpu, **settings), held, 1) == {("", "optimizer"): expected}


def test_a_remedy_may_have_a_setting_that_its_strategy_brings() -> None:
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 64}
    source = replace(SOURCE, config=config | {"num_attention_heads": 32, "vocab_size": 100}, dtype="bfloat16")
    nets = {"model": source, "critic": source, "reward": source, "precision": "bf16-true"}
    plan = Plan(job(**nets, processes=4, on_gpu=True, layout=Layout(engine="ddp")))
    names = ["strategy=deepspeed_zero3_offload", "trainer.strategy.gather_for_generation=false"]
    first = next(knob for knob in knobs(plan.job) if knob.setting == names[0])
    second = next(knob for knob in knobs(turned(plan, [first]).job) if knob.setting == names[1])
    peaks = [turned(plan, chosen).peak.total for chosen in ([first], [first, second])]
    assert peaks[1] < peaks[0]
    assert plan.peak.total > peaks[0]
    chosen = smallest(plan, Limits(peaks[1]))
    assert chosen
    assert [knob.setting for knob in chosen if knob.of_strategy] == names


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("stage", ["ppo", "sft"])
def test_a_remedy_is_a_line_that_can_be_typed(stage: Any, share: float) -> None:
    base = [f"stage={stage}", "model=tiny", "trainer=gpu", "trainer.precision=32-true", "strategy=ddp"]
    plan = plan_of(*base, "trainer.devices=2")
    limit = round(plan.peak.total * share)
    chosen = smallest(plan, Limits(limit))
    if chosen is None:
        return
    line = " ".join(knob.setting for knob in chosen).split()
    names = [setting.split("=")[0] for setting in line]
    assert len(set(names)) == len(names)
    given = [setting for setting in base if setting.split("=")[0] not in names]
    assert plan_of(*given, "trainer.devices=2", *line).peak.total <= limit


def test_weights_are_never_both_divided_and_quantized() -> None:
    for stage in (1, 2, 3):
        planned = job(processes=2, layout=Layout(engine="fsdp" if stage == 2 else "deepspeed", stage=stage))  # type: ignore[arg-type]
        quantizes = any(knob.quantizes for knob in knobs(planned))
        assert quantizes == (not planned.layout.divides_weights)


def test_a_short_host_counts_as_much_as_a_short_device() -> None:
    plan = Plan(job(processes=2, processes_per_node=2, on_gpu=True, layout=Layout(engine="ddp")))
    limits = Limits(plan.peak.total, plan.host_peak // 2)
    assert plan.short(*limits) == {"host_memory": plan.host_peak - plan.host_peak // 2}
    chosen = smallest(plan, limits)
    assert chosen
    assert turned(plan, chosen).fits(*limits)
    assert any(saving.host_saves > 0 for saving in savings(plan, limits))
    for saving in savings(plan, limits):
        changed = turned(plan, [saving.knob])
        assert (saving.host_peak, saving.fits) == (changed.host_peak, changed.fits(*limits))
