"""The plan of one model that plays all roles."""

from dataclasses import replace
from typing import Any

import pytest
from tiny_jobs import ACTOR, BLOCK, CRITIC, SOURCE, job, kinds

from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.planner.fitting import savings, turned
from lightning_rlhf.planner.flops import iteration_flops
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout, layout
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.plan import Plan

LORA = Lora(rank=2, target_modules=["c_attn"])
# In each of five blocks, A is (2, 32) and B is (96, 2).
ADAPTER = 5 * (2 * 32 + 96 * 2)
# A critic or a reward model has a head of 32 and a bias.
HEAD = 32 + 1


def shared(**changes: Any) -> Job:
    source = replace(SOURCE, adapter=LORA)
    settings = {"shared": True, "model": source, "critic": source, "reward_adapter": LORA}
    return job(**(settings | changes))


def test_the_backbone_is_held_once_and_a_role_adds_its_adapter() -> None:
    plan = Plan(shared())
    parts = {"backbone": ACTOR, "actor": ADAPTER, "critic": ADAPTER + HEAD, "reward": ADAPTER + HEAD}
    assert plan.record()["parameters"] == parts
    assert plan.record()["trained"] == parts | {"backbone": 0, "reward": 0}
    assert kinds(plan, "load")["parameters"] == 4 * (ACTOR + 3 * ADAPTER + 2 * HEAD)
    assert kinds(plan, "rollout")["optimizer"] == 8 * (2 * ADAPTER + HEAD)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"adapter_reference": True}, {"reference": ADAPTER}),
        ({"reward_adapter": None}, {"reward": CRITIC}),
        ({"reward": None}, {"reward": None}),
        ({"critic": None}, {"critic": None}),
        # A critic starts with the adapter of the role that it starts from.
        ({"reward_adapter": replace(LORA, rank=4)}, {"critic": 2 * ADAPTER + HEAD, "reward": 2 * ADAPTER + HEAD}),
        ({"reward_adapter": replace(LORA, rank=4), "critic_init": "policy"}, {"reward": 2 * ADAPTER + HEAD}),
    ],
)
def test_roles_have_what_they_need(changes: dict[str, Any], parts: dict[str, int | None]) -> None:
    usual = Plan(shared()).record()["parameters"]
    found = Plan(shared(**changes)).record()["parameters"]
    assert found == {role: size for role, size in (usual | parts).items() if size is not None}


def test_an_adapter_that_is_still_to_come_is_counted() -> None:
    source = replace(SOURCE, adapter=LORA, adapter_dir="not/there/yet")
    assert Plan(shared(model=source, critic=source)).phases["load"] == Plan(shared()).phases["load"]
    # If the reference is a model of its own, it has the adapter too.
    assert Plan(job(model=source, critic=source)).record()["parameters"]["reference"] == ACTOR + ADAPTER


def test_actor_and_reference_are_scored_one_after_the_other() -> None:
    source = replace(SOURCE, adapter=LORA)
    separate = run_passes(job(model=source, critic=source)).segments["scoring"]
    shared_passes = run_passes(shared()).segments["scoring"]

    def work(segments: list[Any]) -> dict[str, list[int]]:
        roles = ("actor", "critic", "reference", "reward")
        return {role: [s.work for s in segments if (s.role, s.part) == (role, "block")] for role in roles}

    assert {role: len(sizes) for role, sizes in work(separate).items()} == dict.fromkeys(work(separate), 5)
    assert {role: len(sizes) for role, sizes in work(shared_passes).items() if sizes} == {
        "actor": 10,
        "critic": 5,
        "reward": 5,
    }
    assert max(work(shared_passes)["actor"]) == max(work(separate)["actor"])


def test_tokens_pass_the_backbone_once_for_each_role() -> None:
    counted = iteration_flops(shared(), run_passes(shared()).sizes)
    # 8 rows of 14 tokens; four times a model without embeddings that are looked up, three adapters, two heads.
    matrices = 4 * (5 * BLOCK + 3200 + 64) + 3 * ADAPTER + 2 * HEAD
    assert counted["scoring"] == 8 * 14 * (2 * matrices + 4 * 4 * 5 * 32 * 14)
    assert counted["rollout"] == 8 * 14 * (2 * (5 * BLOCK + 3200 + 64 + ADAPTER) + 4 * 5 * 32 * 7)


@pytest.mark.parametrize(
    "strategy",
    [
        Layout(engine="fsdp2", stage=3),
        Layout(engine="fsdp", stage=3),
        Layout(engine="deepspeed", stage=3),
        Layout(engine="deepspeed", stage=2),
        Layout(engine="colossalai", stage=2),
        Layout(engine="ddp"),
    ],
)
def test_every_strategy_plans_one_net_as_smaller_than_four(strategy: Layout) -> None:
    source = replace(SOURCE, adapter=LORA)
    sizes = {"processes": 2, "layout": strategy, "precision": "bf16-true"}
    one, four = Plan(shared(**sizes)).phases, Plan(job(model=source, critic=source, **sizes)).phases
    assert one["load"].total < four["load"].total / 2
    assert one["update"].total < four["update"].total


def test_what_is_gathered_for_a_rollout_is_not_gathered_again_by_another_role() -> None:
    plan = Plan(shared(processes=2, layout=Layout(engine="fsdp2", stage=3)))
    whole = 4 * (ACTOR + 3 * ADAPTER + 2 * HEAD)
    assert kinds(plan, "rollout")["gathered"] == kinds(plan, "scoring")["gathered"] == whole
    own = Plan(shared(reward_adapter=None, processes=2, layout=Layout(engine="fsdp2", stage=3)))
    assert kinds(own, "scoring")["gathered"] >= 4 * (ACTOR + 2 * ADAPTER + HEAD)


def test_four_bits_leave_adapters_as_they_are() -> None:
    nets = {name: replace(SOURCE, adapter=LORA, quantization="nf4") for name in ("model", "critic")}
    plain, small = (Plan(planned).phases["load"].total for planned in (shared(), shared(**nets)))
    linear = 5 * (32 * 96 + 32 * 32 + 2 * 32 * 128)
    assert plain - small == linear * (4 - 0.5 - 4 / 64)


def test_one_net_is_a_way_to_save_of_ppo_with_four() -> None:
    plan = Plan(job(reward_adapter=LORA))
    found = {saving.knob.setting: saving for saving in savings(plan)}
    ways = [setting for setting in found if "roles=shared" in setting]
    assert sorted(ways) == ["adapter=lora roles=shared", "adapter=lora roles=shared model.quantization=nf4"]
    one = turned(plan, [found["adapter=lora roles=shared"].knob])
    assert set(one.record()["parameters"]) == {"backbone", "actor", "critic", "reward"}
    quantized = turned(plan, [found["adapter=lora roles=shared model.quantization=nf4"].knob])
    assert quantized.phases["load"].total < one.phases["load"].total < plan.phases["load"].total / 2


@pytest.mark.parametrize("given", [shared(), job(stage="sft"), job(critic_init="reward")])
def test_one_net_is_no_way_to_save_where_it_cannot_be(given: Job) -> None:
    assert not [saving for saving in savings(Plan(given)) if "roles=shared" in saving.knob.setting]


def test_gemini_divides_frozen_nets_and_not_what_is_frozen_beside_what_is_trained() -> None:
    gemini = layout({"_target_": "lightning_rlhf.strategies.ColossalAIStrategy", "stage": 3})
    source = replace(SOURCE, adapter=LORA)
    sizes = {"processes": 2, "layout": gemini, "precision": "bf16-true"}
    full, adapted = Plan(job(**sizes)), Plan(job(model=source, critic=source, **sizes))
    assert kinds(full, "load")["parameters"] == pytest.approx(2 * (2 * ACTOR + 2 * CRITIC) / 2, abs=9)
    # The adapters of actor and critic and a head are sharded.
    frozen, trained = ACTOR + CRITIC - HEAD, 2 * ADAPTER + HEAD
    assert kinds(adapted, "load")["parameters"] == pytest.approx(2 * (frozen + (trained + ACTOR + CRITIC) / 2), abs=9)


def test_zero_3_gathers_ahead_what_no_role_has_asked_for_yet() -> None:
    strategy = Layout(engine="deepspeed", stage=3)
    whole = 4 * (ACTOR + 3 * ADAPTER + 2 * HEAD)

    def gathered(planned: Job) -> dict[str, int]:
        forward = [m for m in moments(planned) if m.phase == "update" and "forward, block" in m.what]
        return {role: max(m.held[role, "gathered"] for m in forward) for role in ("critic", "actor")}

    # The head of GPT-2 is its embedding, so the critic has called every weight.
    assert gathered(shared(processes=2, layout=strategy)) == {"critic": 2 * whole, "actor": whole}
    own = {**SOURCE.config, "tie_word_embeddings": False}  # type: ignore[dict-item]
    source = replace(SOURCE, config=own, adapter=LORA)
    found = gathered(shared(model=source, critic=source, processes=2, layout=strategy))
    assert found["critic"] == found["actor"] > 2 * whole
