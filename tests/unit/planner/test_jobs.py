"""What the planner takes of a configuration with one net in all roles."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from peft import LoraConfig

from lightning_rlhf.cli.jobs import job_of
from lightning_rlhf.models.adapters import Lora
from lightning_rlhf.planner.job import Job

SHARED = ["model=tiny", "adapter=lora", "roles=shared"]


def ppo_job(*overrides: str) -> Job:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return job_of(compose("plan", [*SHARED, *overrides]), "ppo")


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
    # As a run writes it, once it has put the reward model on its backbone.
    written = ["reward._target_=lightning_rlhf.rewards.AdapterReward", "~reward.dtype"]
    assert ppo_job(*given, *written).reward_plays
