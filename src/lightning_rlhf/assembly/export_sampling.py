"""Finds the sampling distribution that the export of a stage names."""

from dataclasses import fields

from omegaconf import DictConfig

from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.stages import StageRecord


def sampling_settings(config: DictConfig, record: StageRecord) -> dict[str, object] | None:
    """Returns settings for transformers' `GenerationConfig`; None if the stage trains no language model.

    PPO has trained the distribution of its rollouts, with their length limit. The other stages learn the distribution
    of their data, and name the one with which their held-out answers were measured, without a length limit.

    Args:
        config: The configuration of the stage, of which only numbers are read.
        record: The record of the stage.
    """
    if record.trains_reward_model:
        return None
    module = config[record.block].module
    node = module.sampling if record.samples else module.evaluation
    sampling = Sampling(**{field.name: node[field.name] for field in fields(Sampling) if field.name in node})
    return sampling.generation_settings(limited=record.samples)
