"""The models of a benchmark: those of PPO, with random weights, and with EOS where the lengths need it."""

from dataclasses import replace
from functools import partial

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import PreTrainedModel

from lightning_rlhf.assembly.benchmark_settings import BenchmarkSettings
from lightning_rlhf.assembly.plan_job import job_of
from lightning_rlhf.benchmark.ending import end_with_probability
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.shared import Shared
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.ppo import PPOModule
from lightning_rlhf.planner.job import Job

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def set_nets(module: PPOModule, settings: BenchmarkSettings, source: ModelSource, eos: int) -> None:
    """Replaces the builders of the models that a benchmark changes.

    Args:
        module: The module, before it has built its models.
        settings: The settings of the benchmark.
        source: The source of the actor.
        eos: Id of the token that ends a response.
    """
    if settings.random_reward_model:
        module.reward = {"reward": partial(load_scalar_model, _reward_source(source), "normal")}
    if settings.length_distribution == "fixed":
        return
    build = partial(_ending, eos=eos, probability=1 / settings.mean_response_length)
    actor = module.builders["actor"]
    if isinstance(actor, Shared):
        actor.net = partial(build, source)
    else:
        module.builders |= {"actor": partial(build, source), "reference": partial(build, source.frozen)}


def _ending(source: ModelSource, *, eos: int, probability: float) -> PreTrainedModel:
    net = load_causal_lm(source)
    end_with_probability(net, eos, probability, source.seed)
    return net


def job_of_benchmark(config: DictConfig, settings: BenchmarkSettings, source: ModelSource) -> Job:
    """The job of the planner for a benchmark; `job_of` does not know the reward model of random weights."""
    job = job_of(config, "ppo")
    return replace(job, reward=_reward_source(source)) if settings.random_reward_model else job


def _reward_source(source: ModelSource) -> ModelSource:
    return replace(source.frozen, quantization=None)


def dtype_of(module: nn.Module, precision: str) -> torch.dtype:
    """The type of the computation: that of autocast, or else that of the weights.

    Args:
        module: The module with its models.
        precision: The precision of the trainer, such as `bf16-mixed`.
    """
    if precision in _AUTOCAST:
        return _AUTOCAST[precision]
    return next(weight.dtype for weight in module.parameters() if weight.is_floating_point())
