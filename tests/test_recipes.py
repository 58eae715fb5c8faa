"""The recipes in conf/experiment have the published settings."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.stages import STAGES

PUBLISHED: dict[str, dict[str, Any]] = {
    # github.com/vwxyzjn/lm-human-preference-details, defaults of the two scripts on 8 processes.
    "lm_human_preferences": {
        "optim.optimizer._target_": "lightning_rlhf.modules.adam.AdamTF",
        "optim.optimizer.eps": 1e-5,
        "optim.weight_decay": 0.0,
        "reward_model.module.lr": 5e-5,
        "reward_model.module.optim.schedule": "linear",
        "reward_model.data.minibatch_size": 4 * 8,
        "reward_model.callbacks.normalize.num_samples": 256,
        "ppo.module.lr": 1e-5,
        "ppo.module.critic_lr": 1e-5,
        "ppo.module.optim.schedule": "linear",
        "ppo.module.rollout_batch_size": 64 * 8,
        "ppo.module.minibatch_size": 64 * 8,
        "ppo.module.ppo_epochs": 4,
        "ppo.module.kl_coef": 0.15,
        "ppo.module.credit.kl_in": "reward",
        "ppo.module.credit.kl_estimator": "k1",
        "ppo.module.credit.gamma": 1.0,
        "ppo.module.credit.gae_lambda": 0.95,
        "ppo.module.credit.shaping.missing_eos_score": -1.0,
        "ppo.module.credit.shaping.whiten": True,
        "ppo.module.loss.clip_range": 0.2,
        "ppo.module.loss.clip_range_value": 0.2,
        "ppo.module.loss.vf_coef": 0.1,
        "ppo.trainer.gradient_clip_val": None,
        "callbacks.adaptive_kl.target": 6.0,
        "callbacks.adaptive_kl.horizon": 10_000,
        "data.max_prompt_length": 64,
        "rollout.sampling.max_new_tokens": 24,
        "rollout.sampling.temperature": 0.7,
    },
    # github.com/vwxyzjn/summarize_from_feedback_details, defaults of the three scripts on 8 processes.
    "summarize": {
        "optim.optimizer._target_": "torch.optim.AdamW",
        "optim.optimizer.eps": 1e-5,
        "optim.weight_decay": 0.01,
        "sft.module.lr": 3e-6,
        "sft.module.optim.schedule": "cosine",
        "sft.data.minibatch_size": 16 * 8,
        "reward_model.module.lr": 3e-6,
        "reward_model.module.optim.schedule": "cosine",
        "reward_model.data.minibatch_size": 8 * 8,
        "ppo.critic_init": "reward",
        "ppo.critic_head": "trained",
        "ppo.module.lr": 3e-6,
        "ppo.module.critic_lr": 3e-6,
        "ppo.module.optim.schedule": "linear",
        "ppo.module.rollout_batch_size": 64 * 8,
        "ppo.module.minibatch_size": 64 * 8,
        "ppo.module.ppo_epochs": 4,
        "ppo.module.kl_coef": 0.05,
        "ppo.module.credit.gamma": 1.0,
        "ppo.module.credit.gae_lambda": 0.95,
        "ppo.module.credit.shaping.missing_eos_score": -1.0,
        "ppo.module.credit.shaping.whiten": False,
        "ppo.module.loss.clip_range": 0.2,
        "ppo.module.loss.clip_range_value": 0.2,
        "ppo.module.loss.vf_coef": 0.1,
        "rollout.sampling.max_new_tokens": 53,
        "rollout.sampling.temperature": 0.7,
    },
}


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run", *overrides])


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_has_the_published_settings(recipe: str) -> None:
    config = configured(f"experiment={recipe}")
    assert {name: OmegaConf.select(config, name) for name in PUBLISHED[recipe]} == PUBLISHED[recipe]
    # A million responses, without the rest that does not fill a rollout.
    responses = config.ppo.trainer.max_epochs * config.ppo.module.rollout_batch_size
    assert 1_000_000 - config.ppo.module.rollout_batch_size < responses <= 1_000_000


def rates(*overrides: str) -> dict[str, float]:
    """The learning rates of all stages."""
    config = configured(*overrides)
    blocks = {stage: config[STAGES[stage].block].module for stage in config.stages}
    return {f"{stage}.{name}": block[name] for stage, block in blocks.items() for name in block if name.endswith("lr")}


@pytest.mark.parametrize("stage", ["pipeline", "pipeline_dpo"])
@pytest.mark.parametrize("recipe", ["none", "demo", "summarize"])
def test_adapters_train_at_ten_times_the_rates_for_all_weights(recipe: str, stage: str) -> None:
    full = rates(f"experiment={recipe}", f"stage={stage}")
    adapted = rates(f"experiment={recipe}", f"stage={stage}", "adapter=lora")
    assert len(full) >= 2
    assert adapted == pytest.approx({name: 10 * rate for name, rate in full.items()}, rel=1e-9)
    assert rates(f"experiment={recipe}", f"stage={stage}", "adapter=lora", "model.quantization=nf4") == adapted


def test_rates_that_are_meant_for_adapters_are_taken_as_they_are() -> None:
    config = configured("stage=sft", "experiment=none", "adapter=lora", "sft.module.lr=3e-4")
    assert config.sft.module.lr == 3e-4
    data = "data.path=pkg://lightning_rlhf.demo/preferences.jsonl"
    config = configured("experiment=smollm2_hh", data)
    assert config.model.adapter is not None
    assert [config.sft.module.lr, config.ppo.module.lr, config.ppo.module.critic_lr] == [5e-4] * 3
    # The recipe has no rate for DPO, so the default is scaled: 10 x 1e-6.
    assert configured("experiment=smollm2_hh", data, "stage=dpo").dpo.module.lr == 1e-5
