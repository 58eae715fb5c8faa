"""Where scores come from: reward models, functions of texts, rules, servers, judges, and sums of them."""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_rlhf.rewards.function import TextReward
from lightning_rlhf.rewards.http import HTTPReward
from lightning_rlhf.rewards.judge import LLMJudge
from lightning_rlhf.rewards.loaders import loads_reward_model

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
    "Reward",
    "RewardSource",
    "TextReward",
    "WeightedSum",
    "as_reward",
    "load_reward",
    "loads_reward_model",
]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first asked for, so that a function of texts can be tried without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.build"), name)
