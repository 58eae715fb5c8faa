"""The planner's numbers, compared with arithmetic by hand, with whole models, and with each other."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_jobs import ACTOR, BLOCK, CRITIC, SOURCE, job, kinds

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.rebuilding import empty_net
from lightning_rlhf.planner.fitting import Limits, largest_micro_batch, possible, savings, smallest, turned
from lightning_rlhf.planner.flops import iteration_flops
from lightning_rlhf.planner.knobs import knobs
from lightning_rlhf.planner.layout import Layout, layout
from lightning_rlhf.planner.memory import by_kind
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.plan import Plan


def test_weights_gradients_and_adam_are_those_of_gpt2_by_hand() -> None:
    plan = Plan(job())
    assert plan.record()["parameters"] == {"actor": ACTOR, "critic": CRITIC, "reference": ACTOR, "reward": CRITIC}
    # There are four models in fp32; actor and critic have two averages each, and gradients from an update to its step.
    assert kinds(plan, "rollout")["parameters"] == 4 * (2 * ACTOR + 2 * CRITIC)
    assert "gradients" not in kinds(plan, "rollout")
    assert next(m for m in moments(plan.job) if m.what == "optimizer step").held["actor", "gradients"] == 4 * ACTOR
    assert kinds(plan, "rollout")["optimizer"] == 8 * (ACTOR + CRITIC)
    # Before the first update there are only weights.
    assert set(kinds(plan, "load")) == {"parameters"}


def test_the_cache_holds_keys_and_values_of_all_tokens_but_the_last() -> None:
    # The cache has 3 rows · 13 tokens · 5 blocks · 32 numbers, twice, of 4 bytes.
    assert run_passes(job()).cache["decoding"] == 3 * 13 * 5 * 32 * 2 * 4


def test_grouped_heads_shrink_the_cache() -> None:
    config = {"model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1}
    source = replace(SOURCE, config=config)
    # The cache has 3 rows · 13 tokens · 2 blocks · 1 head of 8 numbers, twice, of 4 bytes.
    assert run_passes(job(model=source, critic=source)).cache["decoding"] == 3 * 13 * 2 * 8 * 2 * 4


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "opt", "bloom", "gpt_neox", "gemma3_text"])
def test_three_blocks_count_the_weights_of_a_whole_net(model_type: str) -> None:
    config = {"model_type": model_type, "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 7}
    config |= {"num_attention_heads": 4, "intermediate_size": 64, "ffn_dim": 64, "word_embed_proj_dim": 32}
    config |= {"num_key_value_heads": 2, "head_dim": 8}
    source = replace(SOURCE, config=config)
    whole = empty_net(source, scalar=False)
    assert run_passes(job(stage="sft", model=source)).sizes.held["actor"].count == whole.num_parameters()


def test_three_blocks_say_what_a_deep_net_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Plan(job(ppo_epochs=2)).phases
    monkeypatch.setattr("lightning_rlhf.planner.nets.DEPTH", 99)
    monkeypatch.setattr("lightning_rlhf.planner.trace.DEPTH", 99)
    monkeypatch.setattr("lightning_rlhf.planner.phases._SIZES", {})
    monkeypatch.setattr("lightning_rlhf.planner.phases._SEGMENTS", {})
    whole = Plan(job(ppo_epochs=2)).phases
    assert {name: m.total for name, m in quick.items()} == {name: m.total for name, m in whole.items()}


def test_zero_divides_what_it_says_by_the_processes() -> None:
    plans = {stage: Plan(job(processes=2, layout=Layout(engine="deepspeed", stage=stage))) for stage in (1, 2, 3)}
    # There are fp32 copies of the trained weights and two averages, halved.
    for stage in (1, 2):
        assert kinds(plans[stage], "rollout")["optimizer"] == pytest.approx(12 * (ACTOR + CRITIC) / 2, abs=9)
        assert kinds(plans[stage], "load")["parameters"] == 4 * (2 * ACTOR + 2 * CRITIC)
    assert kinds(plans[3], "load")["parameters"] == pytest.approx(4 * (2 * ACTOR + 2 * CRITIC) / 2, abs=9)
    assert kinds(plans[3], "rollout")["gathered"] >= 4 * ACTOR


def test_what_is_offloaded_is_on_the_host_and_not_on_the_device() -> None:
    off = Layout(engine="deepspeed", stage=3, optimizer_on="cpu", parameters_on="cpu")
    plan = Plan(job(processes=4, processes_per_node=2, on_gpu=True, layout=off))
    assert "optimizer" not in kinds(plan, "rollout")
    assert "parameters" not in kinds(plan, "rollout")
    # This machine holds the shares of two of four processes: a copy and two averages in fp32.
    assert by_kind(plan.host["training"])["optimizer"] == pytest.approx(12 * (ACTOR + CRITIC) / 2, abs=9)


def test_an_adapter_alone_has_gradients() -> None:
    source = replace(SOURCE, adapter=Lora(rank=2, target_modules=["c_attn"]))
    weights = run_passes(job(model=source, critic=source)).sizes.held
    # In each block, A is (2, 32) and B is (96, 2); the head of the critic is trained too.
    assert weights["actor"].trained == 5 * (2 * 32 + 96 * 2)
    assert weights["critic"].trained - weights["actor"].trained in (32, 33)
    assert weights["reference"].count == ACTOR


def test_4_bits_take_half_a_byte_and_a_scale_for_each_64() -> None:
    source = replace(SOURCE, adapter=Lora(rank=2))
    plain = run_passes(job(model=source)).sizes.held["actor"].size
    small = run_passes(job(model=replace(source, quantization="nf4"))).sizes.held["actor"].size
    linear = 5 * (32 * 96 + 32 * 32 + 2 * 32 * 128)
    assert plain - small == linear * (4 - 0.5 - 4 / 64)


def test_8_bit_adam_takes_two_bytes_and_two_scales_for_each_256() -> None:
    plan = Plan(job(optimizer_bits=8))
    assert kinds(plan, "rollout")["optimizer"] == pytest.approx((ACTOR + CRITIC) * (2 + 8 / 256), abs=2)


def test_accumulation_keeps_gradients_through_the_backward_pass() -> None:
    passes = {parts: Plan(job(minibatch_size=4 * parts, accumulate=parts)) for parts in (1, 2)}
    assert passes[2].phases["update"].total >= passes[1].phases["update"].total
    assert passes[1].job.micro_batch_size == passes[2].job.micro_batch_size == 4


def test_autocast_keeps_copies_of_the_weights() -> None:
    plain, mixed = Plan(job()), Plan(job(precision="bf16-mixed"))
    # These are the linear weights of the actor in 2 bytes.
    assert kinds(mixed, "rollout")["activations"] - 2 * 5 * (BLOCK - 128) > -kinds(plain, "rollout")["activations"]
    assert run_passes(mixed.job).casts >= 2 * 5 * (32 * 96 + 32 * 32 + 2 * 32 * 128)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_other_stages_have_no_rollout(stage: Any) -> None:
    plan = Plan(job(stage=stage))
    assert set(plan.phases) == {"load", "update", "export"}
    assert ("reference" in plan.record()["parameters"]) == (stage == "dpo")


@pytest.mark.parametrize("processes", [1, 4])
def test_what_a_knob_saves_is_the_difference_of_two_plans(processes: int) -> None:
    plan = Plan(job(processes=processes, on_gpu=True, minibatch_size=32, rollout_batch_size=64))
    found = savings(plan)
    assert len(found) >= 4
    for saving in found:
        assert saving.saves == plan.peak.total - turned(plan, [saving.knob]).peak.total > 0


def test_the_smallest_change_fits_and_nothing_in_it_is_idle() -> None:
    plan = Plan(job(minibatch_size=64))
    together = (knob for knob in knobs(plan.job) if not knob.divides)
    every = turned(plan, list(together)).peak.total
    for limit in (every, (every + plan.peak.total) // 2):
        chosen = smallest(plan, Limits(limit))
        assert chosen
        assert turned(plan, chosen).fits(limit)
        for knob in chosen:
            fewer = [other for other in chosen if other is not knob]
            assert not (possible(plan.job, fewer) and turned(plan, fewer).fits(limit))
    assert smallest(plan, Limits(plan.peak.total)) == []
    assert smallest(plan, Limits(1000)) is None


def test_the_largest_micro_batch_divides_the_share_of_a_minibatch_and_the_next_one_does_not_fit() -> None:
    plan = Plan(job(stage="reward", minibatch_size=72, processes=2))
    limit = plan.peak.total // 2
    found = largest_micro_batch(plan, Limits(limit))
    assert found
    # The divisors of 36 sequences are 1, 2, 3, 4, 6, 9, 12, 18, 36.
    sizes = [rows for rows in range(1, 37) if 36 % rows == 0 and Plan(plan.job.with_rows(rows)).fits(limit)]
    assert 1 < found.rows < 36
    assert found.rows == sizes[-1]
    assert found.setting == f"reward_model.trainer.accumulate_grad_batches={36 // found.rows}"
    assert largest_micro_batch(plan, Limits(1000)) is None
    assert largest_micro_batch(plan, Limits(limit, host=10**12)) == found


def test_flops_are_two_for_each_weight_and_token() -> None:
    counted = iteration_flops(job(), run_passes(job()).sizes)
    # 8 rows of 14 tokens; four models without embeddings but with heads; and attention over 14 tokens in 5 blocks.
    heads = 2 * 3200 + 2 * 32
    matrices = 4 * (5 * BLOCK + 64) + heads
    expected = 8 * 14 * (2 * matrices + 4 * 4 * 5 * 32 * 14)
    assert counted["scoring"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "engine", "trained", "frozen"),
    [
        ("32-true", "single", 4, 2),
        ("bf16-mixed", "ddp", 4, 2),
        ("bf16-mixed", "fsdp2", 4, 2),
        # Frozen weights share a tensor with trained ones.
        ("bf16-mixed", "fsdp", 4, 4),
        ("bf16-true", "single", 2, 2),
        ("bf16-true", "fsdp2", 2, 2),
        # These strategies cast all weights, and keep fp32 copies of trained ones.
        ("bf16-mixed", "deepspeed", 2, 2),
        ("bf16-true", "deepspeed", 2, 2),
    ],
)
def test_of_nets_built_in_bf16_those_that_train_are_held_in_fp32(
    precision: str, engine: Any, trained: int, frozen: int
) -> None:
    source = replace(SOURCE, dtype="bfloat16")
    sharing = Layout(engine=engine, stage=3 if engine.startswith("fsdp") else 1 if engine == "deepspeed" else 0)
    plan = Plan(job(model=source, critic=source, reward=source, precision=precision, layout=sharing))
    # The reference is in the same precision as the actor.
    held = {role: size for (role, kind), size in plan.phases["load"].held.items() if kind == "parameters"}
    assert held == {
        "actor": trained * ACTOR,
        "reference": trained * ACTOR,
        "critic": trained * CRITIC,
        "reward": frozen * CRITIC,
    }
    masters = 4 if engine == "deepspeed" else 0
    moments = 8 if engine == "deepspeed" else 2 * trained
    assert kinds(plan, "rollout")["optimizer"] == (masters + moments) * (ACTOR + CRITIC)


def test_a_strategy_that_nobody_knows_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"trainer\.strategy=mine"):
        layout({"_target_": "mine"})


def test_planning_makes_no_weights() -> None:
    config = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80}
    source = replace(SOURCE, config=config | {"num_attention_heads": 64, "vocab_size": 32000}, dtype="bfloat16")
    # Two models of 65.3 billion weights of 4 bytes, the dtype of training, exceed the memory of any test machine.
    assert Plan(job(model=source, critic=None, reward=None)).phases["load"].total == pytest.approx(8 * 65.3e9, rel=0.01)
    assert not torch.nn.Linear(1, 1).weight.is_meta
