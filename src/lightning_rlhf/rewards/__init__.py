"""Sources of scores: reward models, functions of texts, rules, servers, judges, and sums of them."""

import importlib
from typing import TYPE_CHECKING

from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.http import HTTPReward
from lightning_rlhf.rewards.judge import LLMJudge
from lightning_rlhf.rewards.loaders import loads_reward_model
from lightning_rlhf.rewards.remote import Remote

if TYPE_CHECKING:
    from lightning_rlhf.rewards.build import (
        AdapterReward,
        LoadedReward,
        Reward,
        RewardSource,
        WeightedSum,
        as_reward,
        load_reward,
    )

__all__ = [
    "AdapterReward",
    "HTTPReward",
    "LLMJudge",
    "LoadedReward",
    "Remote",
    "Reward",
    "RewardSource",
    "TextReward",
    "WeightedSum",
    "as_reward",
    "load_reward",
    "loads_reward_model",
]


def __getattr__(name: str) -> object:
    """Imports names that need torch when they are first used, so that functions of texts can be tried without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.build"), name)
