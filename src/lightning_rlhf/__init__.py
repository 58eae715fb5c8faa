"""RLHF with PyTorch Lightning: supervised fine-tuning, reward modelling and PPO as LightningModules."""

import importlib
from typing import Any

_HOME = {
    "SFTModule": "modules.sft",
    "RewardModule": "modules.reward",
    "PPOModule": "modules.ppo",
    "DPOModule": "modules.dpo",
    "SFTDataModule": "data.sft",
    "PreferenceDataModule": "data.preference",
    "PromptDataModule": "data.prompts",
    "Renderer": "data.render",
    "ModelSource": "models.source",
    "load_causal_lm": "models.causal_lm",
    "load_scalar_model": "models.scalar",
    "load_reward_model": "models.scalar",
    "Shared": "models.shared",
    "export_model": "models.export",
    "Sampling": "rollout.sampling",
    "PaddedEngine": "rollout.engines.padded",
    "TextReward": "rewards.function",
    "HTTPReward": "rewards.http",
    "LLMJudge": "rewards.judge",
    "WeightedSum": "rewards.build",
    "load_reward": "rewards.build",
    "AdapterReward": "rewards.build",
    "ColossalAIStrategy": "strategies.colossalai.strategy",
    "DeepSpeedStrategy": "strategies.deepspeed.strategy",
    "FSDPStrategy": "strategies.fsdp.fsdp1",
    "FSDP2Strategy": "strategies.fsdp.fsdp2",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that importing the package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
