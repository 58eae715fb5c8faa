"""The configuration of a stage follows from that of the run and the models of the earlier stages."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig

from lightning_rlhf.assembly.handoff import handed_on
from lightning_rlhf.errors import UserError

SFT, REWARD, DPO = (Path("run") / name / "model" for name in ("sft", "reward", "dpo"))
SHARED = ["adapter=lora", "roles=shared"]
ADAPTER = "lightning_rlhf.rewards.build.AdapterReward"


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run", "model=tiny", *overrides])


def test_the_configuration_of_the_run_stays_as_it_is() -> None:
    config = configured(*SHARED)
    before = OmegaConf.to_yaml(config)
    handed_on(config, {"sft": SFT, "reward": REWARD})
    assert OmegaConf.to_yaml(config) == before


def test_the_first_stage_gets_the_configuration_of_the_run() -> None:
    config = configured()
    assert handed_on(config, {}) == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"pretrained": "run/sft/model", "tokenizer": None, "meta_dir": None, "adapter_dir": None}),
        (["adapter=lora"], {"pretrained": "run/sft/model", "adapter_dir": None}),
        (SHARED, {"pretrained": None, "adapter_dir": "run/sft/adapter"}),
        (["adapter=lora", "model.quantization=nf4"], {"pretrained": None, "adapter_dir": "run/sft/adapter"}),
    ],
)
def test_a_policy_is_handed_on_whole_or_as_the_adapter_that_is_trained_further(
    overrides: list[str], expected: dict[str, str | None]
) -> None:
    model = handed_on(configured(*overrides), {"sft": SFT}).model
    assert {name: model[name] for name in expected} == expected


def test_a_stage_starts_from_the_last_policy_that_was_trained() -> None:
    assert handed_on(configured(), {"sft": SFT, "dpo": DPO, "reward": REWARD}).model.pretrained == "run/dpo/model"


def test_a_trained_reward_model_goes_where_none_is_named() -> None:
    second = ["reward=weighted", "+reward@reward.parts.second=model", "reward.parts.second.path=mine"]
    parts = handed_on(configured(*second), {"reward": REWARD}).reward.parts
    assert (parts.model.path, parts.second.path) == ("run/reward/model", "mine")


def test_a_reward_model_that_the_run_trains_as_an_adapter_goes_onto_the_one_net() -> None:
    reward = handed_on(configured(*SHARED, "reward.template=raw"), {"reward": REWARD}).reward
    assert reward == {"_target_": ADAPTER, "path": "run/reward/model", "template": "raw", "setting": "reward.path"}
    four = handed_on(configured("adapter=lora"), {"reward": REWARD}).reward
    assert four._target_ == "lightning_rlhf.rewards.load_reward"


def test_a_reward_model_of_another_run_goes_onto_the_one_net_if_it_is_an_adapter(tmp_path: Path) -> None:
    config = configured(*SHARED, f"reward.path={tmp_path}/model")
    assert handed_on(config, {}).reward._target_ == "lightning_rlhf.rewards.load_reward"
    LoraConfig(r=3, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    assert handed_on(config, {}).reward._target_ == ADAPTER
    assert handed_on(handed_on(config, {}), {}) == handed_on(config, {})


def test_what_no_stage_leaves_is_named() -> None:
    with pytest.raises(UserError, match="there is no stage pop"):
        handed_on(configured(), {"pop": SFT})
