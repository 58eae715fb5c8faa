"""What can be known of the settings without torch is checked before it is imported, and told together."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.settings import check_settings


def found(*overrides: str) -> list[str]:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", ["model=tiny", *overrides])
    problems = Problems()
    check_settings(config, problems)
    return problems.lines


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "pipeline", "pipeline_dpo"])
def test_the_demo_has_no_problems(stage: str) -> None:
    assert found(f"stage={stage}") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+data.val_fractio=0.1"], "data.val_fractio: there is no such setting; did you mean data.val_fraction?"),
        (["+rollout.samplin=1"], "rollout.samplin: there is no such setting; did you mean rollout.sampling?"),
        (["+sft.modul.lr=1"], "sft.modul: there is no such setting; did you mean sft.module?"),
        (
            ["+trainer.max_epochs=3"],
            "trainer.max_epochs=3 has no effect, because each stage has its own: set sft.trainer.max_epochs=3",
        ),
        (["data=files"], "data.path is not set: give it as data.path=VALUE"),
        (["data.val_fraction=1.5"], "data.val_fraction=1.5: must lie between 0 and 1"),
        (["roles=both"], "roles=both: expected separate or shared"),
        (["model.quantization=nf4"], "model.quantization=nf4: quantized weights cannot be trained: add adapter=lora"),
        (
            ["trainer.devices=3", "sft.data.minibatch_size=16"],
            "minibatch_size=16 is not divisible by 3 = 3 processes x accumulate_grad_batches=1: change one of them",
        ),
        (
            ["data.gold=nothing:here"],
            "'nothing:here': cannot import 'nothing'; is it installed, in the current folder, ",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(overrides: list[str], message: str) -> None:
    assert [line[: len(message)] for line in found("stage=sft", *overrides)] == [message]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=ppo"], "reward.path is not set: give the folder of a trained reward model"),
        (["stage=ppo", "reward=function"], "reward.function is not set: give it as reward.function=VALUE"),
        (["stage=ppo", "reward=function", "reward.function=math:nothing"], "'math:nothing': module 'math' has no func"),
        (
            ["stage=ppo", "reward=gold", "ppo.module.rollout_batch_size=48"],
            "rollout_batch_size=48 is not divisible by minibatch_size=32",
        ),
        (
            ["stage=ppo", "reward=gold", "algorithm=grpo", "ppo.module.credit.num_samples_per_prompt=3"],
            "rollout_batch_size=128 is not divisible by num_samples_per_prompt=3",
        ),
    ],
)
def test_so_is_one_of_ppo(overrides: list[str], message: str) -> None:
    assert [line[: len(message)] for line in found(*overrides)] == [message]


def test_a_pipeline_needs_no_path_of_the_reward_model_that_it_trains() -> None:
    assert (
        found("stage=pipeline", "reward=weighted", "reward.parts.function.function=lightning_rlhf.demo.gold:gold") == []
    )


def test_data_that_do_not_exist_are_named_once_although_three_stages_read_them(tmp_path: Path) -> None:
    (line,) = found("data=files", f"data.path={tmp_path}/none.jsonl")
    assert line.startswith(f"data file '{tmp_path}/none.jsonl' does not exist")


def test_a_setting_that_another_one_refers_to_has_an_effect() -> None:
    assert found("stage=sft", "+data.mine=7", "sft.data.minibatch_size=${data.mine}") == []
    # Not by a name that begins in the same way.
    assert len(found("stage=sft", "+data.min=7", "+data.mine=7", "sft.data.minibatch_size=${data.mine}")) == 1


def test_the_folder_of_an_adapter_or_of_a_run_is_told_which_setting_or_folder_was_meant(tmp_path: Path) -> None:
    adapter, run = tmp_path / "adapter", tmp_path / "run"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "openai-community/gpt2"}')
    (line,) = found("stage=sft", f"model.pretrained={adapter}")
    assert line.startswith(f"model.pretrained={adapter}: this folder holds an adapter and not a whole model: ")
    assert line.endswith(f"set model.adapter_dir={adapter} adapter=lora model.pretrained=openai-community/gpt2")
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (line,) = found("stage=sft", f"model.pretrained={run}")
    assert line.endswith(f"this is the folder of a run: its model is model.pretrained={run}/model")
    assert found("stage=sft", f"model.pretrained={run}/model") == []


def test_none_of_these_checks_imports_torch() -> None:
    code = """
import sys
from hydra import compose, initialize_config_module
from lightning_rlhf.assembly.overrides import check_command_line
with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
    config = compose("train", ["stage=ppo", "reward=gold"])
check_command_line(config, [], {})
assert not {"torch", "transformers", "lightning"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
