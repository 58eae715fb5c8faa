"""Looks up in the configuration of a stage what the run card says about it."""

from collections.abc import Mapping
from typing import Any

from lightning_rlhf.report.run import Stage


def setting(stage: Stage, path: str) -> Any:
    """The value at a path of the configuration, such as `ppo.module.lr`, or None if there is none."""
    node: Any = stage.settings
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def learning_rates(stage: Stage) -> dict[str, float]:
    """The learning rates of a stage: `lr` of the model or actor, and `critic_lr` if there is a critic."""
    module, models = setting(stage, f"{stage.record.block}.module"), stage.result.parameters
    names = ["lr", "critic_lr"]
    # Algorithms such as GRPO have no critic; one model for all roles has no part of this name.
    if models and "critic" not in models and setting(stage, "roles") != "shared":
        names.remove("critic_lr")
    rates = {name: module.get(name) for name in names} if isinstance(module, Mapping) else {}
    return {name: float(rate) for name, rate in rates.items() if isinstance(rate, int | float)}


def scorer(stage: Stage) -> str:
    """What gives the score of PPO, such as `reward model` or `function is_short`; empty if it is not known."""
    return _scorer(setting(stage, "reward")) if stage.record.samples else ""


def scored_by_model(stage: Stage) -> bool:
    """Whether a reward model gives the score, or a part of it, so that the policy can exploit its mistakes."""
    return "reward model" in scorer(stage)


def _scorer(node: object) -> str:
    if not isinstance(node, Mapping):
        return ""
    if isinstance(parts := node.get("parts"), Mapping):
        return f"sum of {', '.join(map(str, map(_scorer, parts.values())))}"
    target = str(node.get("_target_", "")).rpartition(".")[2]
    if target != "TextReward":
        # Whatever loads a model names its folder.
        return "reward model" if "path" in node else target
    function = node.get("function")
    name = str(function.get("_target_", "") if isinstance(function, Mapping) else function)
    return f"function {name.replace(':', '.').rpartition('.')[2]}"
