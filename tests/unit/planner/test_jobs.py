"""The planner reads its jobs from a configuration."""

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from peft import LoraConfig

from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.assembly.plan_settings import Asked
from lightning_rlhf.assembly.plan_stage import planned_stage, print_plan_line
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.this_machine import HostMemory

SHARED = ["model=tiny", "adapter=lora", "roles=shared"]


def ppo_job(*overrides: str) -> Job:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return job_of(compose("plan", [*SHARED, *overrides]), "ppo")


def planned(stage: str, *overrides: str) -> Plan:
    """Returns the plan of a stage of a composed configuration."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return Plan(job_of(compose("plan", list(overrides)), stage))


def test_a_form_of_the_optimizer_that_is_set_is_planned() -> None:
    assert (ppo_job().fused, ppo_job().foreach) == (None, None)
    chosen = ppo_job("+optim.optimizer.fused=false", "+optim.optimizer.foreach=true")
    assert (chosen.fused, chosen.foreach) == (False, True)


def test_dpo_as_it_comes_is_planned_behind_one_prompt_token() -> None:
    plan = planned("dpo", "stage=dpo", "model=tiny", "data.max_length=32")
    assert (plan.job.prompt_length, plan.job.response_length) == (1, 31)
    assert plan.phases["update"].total > plan.phases["load"].total > 0


def test_a_pipeline_of_dpo_says_the_plan_of_each_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", ["stage=pipeline_dpo", "model=tiny"])
    for stage in config.stages:
        print_plan_line(config, stage, tmp_path / stage)
        assert "planned peak" in capsys.readouterr().out
        assert (tmp_path / stage / "plan.json").is_file()


def test_a_run_and_a_plan_of_it_say_the_same_peak(tmp_path: Path) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", ["stage=sft", "model=tiny"])
        run = compose("train", ["stage=sft", "model=tiny"])
    print_plan_line(run, "sft", tmp_path)
    said = json.loads((tmp_path / "plan.json").read_text())["peak_bytes_per_device"]
    assert said == planned_stage(config, "sft", Asked.of(config))[1]["peak_bytes_per_device"]


@pytest.mark.parametrize("offloaded", ["deepspeed_zero2_offload", "deepspeed_zero3_offload"])
def test_what_is_offloaded_from_a_cpu_rests_on_it(offloaded: str) -> None:
    both = [
        planned("ppo", "stage=ppo", "model=tiny", "trainer.devices=2", f"strategy={name}").phases["rollout"].held
        for name in (offloaded, offloaded.removesuffix("_offload"))
    ]
    for kind in ("optimizer", "parameters"):
        assert both[0]["actor", kind] == both[1]["actor", kind] > 0


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["device_memory=80GB"], "add trainer=gpu"),
        (["trainer.num_nodes=2", "trainer.devices=1"], "add trainer=gpu"),
        (["strategy=fsdp", "trainer.strategy.cpu_offload=true", "trainer.devices=2"], "add trainer=gpu"),
        (["trainer.devices=2"], None),
        (["device_memory=80GB", "trainer=gpu"], None),
        (["trainer.devices=3"], "minibatch_size=16 is not divisible by 3"),
        (["data.max_length=4096"], "rows have 4096 tokens"),
        (["prompt_length=100", "response_length=9000"], "rows have 9100 tokens"),
    ],
)
def test_a_plan_says_what_may_not_be_meant(overrides: list[str], note: str | None) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", ["stage=sft", "model=tiny", *overrides])
    notes = planned_stage(config, "sft", Asked.of(config))[1]["notes"]
    assert (not notes) if note is None else any(note in line for line in notes)


@pytest.mark.parametrize(
    ("stage", "overrides", "message"),
    [
        ("sft", ["model.quantization=nf4"], "add adapter=lora"),
        ("sft", ["model.quantization=nf4", "adapter=lora", "strategy=fsdp2"], "cannot be divided"),
        ("sft", ["model.quantization=nf4", "adapter=lora", "strategy=deepspeed_zero3"], "cannot be divided"),
        ("dpo", ["roles=shared", "adapter=lora"], "roles=shared: DPO"),
        ("ppo", ["roles=shared"], "add adapter=lora"),
        ("sft", ["prompt_length=8"], "prompt_length=8: a row of stage=sft"),
        ("reward", ["response_length=8"], "response_length=8: a row of stage=reward"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(stage: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned(stage, f"stage={stage}", "model=tiny", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mfu=0", r"mfu=0: must be a number in \(0, 1\]"),
        ("fragmentation=abc", "fragmentation=abc: must be a number"),
        ("fragmentation=1", "fragmentation=1: must be a number"),
        ("device_flops=fast", "device_flops=fast: must be a number"),
        ("device_bandwidth=0", "device_bandwidth=0: must be a number above 0, such as 2.0e12"),
        ("mbu=1.5", r"mbu=1.5: must be a number in \(0, 1\]"),
        ("device_flops=nan", "device_flops=nan: must be a number"),
        ("prompt_length=-5", "prompt_length=-5: must be a number of tokens"),
        ("response_length=2.5", "response_length=2.5: must be a number of tokens"),
        ("device_memory=24", "device_memory=24: this is a number of bytes"),
        ("device_memory=1MB", "device_memory=1MB: must be at least 1.0 MiB, as in device_memory=24GB"),
        ("host_memory=800kB", "host_memory=800kB: must be at least 1.0 MiB"),
        ("host_memory=much", "host_memory=much: expected a size"),
    ],
)
def test_a_wrong_setting_of_a_plan_is_one_line(override: str, message: str) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", [override])
    with pytest.raises(UserError, match=message) as error:
        Asked.of(config)
    assert "\n" not in str(error.value)


def test_what_earlier_stages_hand_on_is_an_adapter_for_reference_and_reward() -> None:
    found = ppo_job("stage=pipeline")
    assert found.shared
    assert found.adapter_reference
    assert found.reward_plays
    assert found.reward_adapter == found.model.adapter


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["stage=ppo"], False),
        (["stage=ppo", "+model.adapter_dir=not/there/yet"], True),
        (["stage=ppo", "ppo.module.refresh_reference_every=2"], True),
    ],
)
def test_a_reference_that_is_not_the_bare_net_is_an_adapter(overrides: list[str], changes: bool) -> None:
    assert ppo_job(*overrides).adapter_reference == changes


def test_a_reward_model_is_an_adapter_if_its_folder_has_one_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    given = ["stage=ppo", f"reward.path={model}"]
    assert not ppo_job(*given).reward_plays
    LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    assert ppo_job(*given).reward_adapter == Lora(rank=3, alpha=5, target_modules=["q_proj"])
    # A run writes the configuration in this form once it has put the reward model on its backbone.
    written = ["reward._target_=lightning_rlhf.rewards.AdapterReward", "~reward.dtype"]
    assert ppo_job(*given, *written).reward_plays


@pytest.mark.parametrize(
    ("stage", "overrides", "source"),
    [
        ("sft", [], "rows of 128 tokens (at most; sft.data.max_length)"),
        ("dpo", ["data.max_length=99"], "rows of 99 tokens (at most; dpo.data.max_length)"),
        (
            "sft",
            ["prompt_length=7", "response_length=9"],
            "prompts of 7 tokens and responses of 9 (prompt_length, response_length)",
        ),
        (
            "ppo",
            ["response_length=9"],
            "prompts of 64 tokens (at most; ppo.data.max_prompt_length), responses of 9 (response_length)",
        ),
    ],
)
def test_a_plan_says_where_its_lengths_come_from(stage: str, overrides: list[str], source: str) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", [f"stage={stage}", "model=tiny", *overrides])
    record = planned_stage(config, stage, Asked.of(config))[1]["lengths"]
    assert record["source"] == source
    assert record["prompt"] + record["response"] == sum(map(int, re.findall(r" of (\d+)", source)))


def test_the_host_memory_that_was_found_gives_a_verdict_unless_the_user_gives_it() -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", ["stage=sft", "model=tiny"])
        given = Asked.of(compose("plan", ["host_memory=2GiB"]))
    assert given.with_host_memory(HostMemory(1, "a limit")) == given
    asked = Asked.of(config)
    assert planned_stage(config, "sft", asked)[1]["fits"] is None
    assert planned_stage(config, "sft", asked.with_host_memory(HostMemory(10**12, "a limit")))[1]["fits"] is True
    record = planned_stage(config, "sft", asked.with_host_memory(HostMemory(2**20, "a limit")))[1]
    assert record["fits"] is False
    assert record["short"].keys() == {"host_memory"}
    # Nobody has asked for a search, which takes long for a large model.
    assert "remedy" not in record
