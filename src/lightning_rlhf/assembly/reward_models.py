"""Finds the reward models behind a score: the group `reward` of the configuration names one, or a sum of several."""

from collections.abc import Iterator

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.rewards.loaders import LoadsRewardModel


def reward_models(config: DictConfig) -> dict[str, DictConfig]:
    """The nodes that load a reward model, by their place in the configuration, such as `reward.parts.model`.

    A node loads it as a model of its own, or as an adapter of the model that takes all roles.
    """
    return dict(_loaders(config.reward, "reward"))


def _loaders(node: DictConfig, place: str) -> Iterator[tuple[str, DictConfig]]:
    if "_target_" in node and isinstance(get_object(node["_target_"]), LoadsRewardModel):
        yield place, node
        return
    for name in map(str, node):
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            yield from _loaders(node[name], f"{place}.{name}")


def adapter_class(node: DictConfig) -> type | None:
    """The class that loads the same reward model as an adapter; None if the node's class does so itself or cannot."""
    return get_object(node["_target_"]).as_adapter
