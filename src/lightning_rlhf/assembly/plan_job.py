"""Derives the input of the planner, a `Job`, from the configuration of a stage."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.critic_start import like_policy
from lightning_rlhf.assembly.handoff import Models, handed_on, is_of_run
from lightning_rlhf.assembly.nets import reference_changes
from lightning_rlhf.assembly.plan_engine import own_engine, sampler_settings
from lightning_rlhf.assembly.plan_lengths import lengths
from lightning_rlhf.assembly.reward_models import reward_models
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles, minibatch_settings
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.files import adapter_kind, holds_adapter
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.attention import FLASH
from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout, layout
from lightning_rlhf.stages import stage_record


def job_of(config: DictConfig, stage: str) -> Job:
    """The job of a stage. No weights are read.

    A model that an earlier stage has yet to train is planned like the model that it starts from.

    Args:
        config: The configuration of the run, or of the stage.
        stage: Name of the stage.

    Raises:
        UserError: If a setting is wrong, or the planner does not support what the configuration names.
    """
    record, models = stage_record(stage), _earlier(config, stage)
    config = _with_start(handed_on(config, models), config)
    block, trainer = config[record.block], config.trainer
    source: ModelSource = instantiate(config.model, _convert_="all")
    if source.attn_implementation == FLASH:
        # The models of a plan are on no GPU. The attention of PyTorch needs about as much memory.
        source = replace(source, attn_implementation=None)
    spread, gpu = layout_of(config), plans_for_gpus(trainer)
    check_quantization(source, block, config.roles, divides=spread.divides_weights)
    check_roles(config.roles, record, source)
    processes = num_devices(trainer.devices, on_gpu=gpu)
    prompt, response, _ = lengths(config, record)
    sizes, mixed_in = minibatch_settings(block), block.data.ptx_max_length if block.module.get("ptx_coef") else 0
    settings: dict[str, Any] = {
        "stage": stage,
        "model": source,
        "shared": config.roles == "shared",
        "layout": spread if gpu else spread.on_cpus(),
        "precision": str(trainer.precision),
        "on_gpu": gpu,
        "processes": processes * trainer.num_nodes,
        "processes_per_node": processes,
        "optimizer": block.module.optim.optimizer["_target_"],
        "fused": block.module.optim.optimizer.get("fused"),
        "foreach": block.module.optim.optimizer.get("foreach"),
        "optimizer_bits": block.module.optim.optimizer.get("bits", 32),
        "minibatch_size": sizes.minibatch_size,
        "max_tokens": sizes.get("max_tokens_per_micro_batch"),
        "accumulate": block.trainer.accumulate_grad_batches,
        "ptx_length": mixed_in,
        "prompt_length": prompt,
        "response_length": response,
    }
    if record.samples:
        settings |= _of_rollouts(config, block, source, models)
    elif _answers_prompts(block):
        settings["engine"] = own_engine(block.module.engine, source)
    if "normalize" in block.callbacks:
        node = block.callbacks.normalize
        settings |= {
            "rollout_batch_size": node.num_samples,
            "rollout_micro_batch_size": node.batch_size,
            "normalizing_length": node.sampling.max_new_tokens,
            "engine": own_engine(node.engine, source),
            **sampler_settings(node.engine, node.batch_size),
        }
    reference = record.has_reference and not block.module.get("reference_free", False)
    return Job(**settings, reference=reference).within_budget()


def _answers_prompts(block: DictConfig) -> bool:
    """Whether a stage that learns from given texts answers held-out prompts, for which it needs an engine too."""
    asked = block.data.get("answer_prompts", block.data.get("prompts_held_out") is not None)
    return "engine" in block.module and bool(asked)


def _earlier(config: DictConfig, stage: str) -> Models:
    """The models that the stages before a stage will leave, in folders that do not exist yet."""
    names = list(config.stages)
    return {name: Path(name) / "model" for name in names[: names.index(stage) if stage in names else 0]}


def _with_start(config: DictConfig, before: DictConfig) -> DictConfig:
    """Restores the source that the policy had before the handoff, because the handed-on files do not exist yet."""
    for name in ("pretrained", "tokenizer", "meta_dir"):
        config.model[name] = before.model[name]
    return config


def layout_of(config: DictConfig) -> Layout:
    """The layout of the strategy of a configuration: what it holds where, if its devices are GPUs.

    Raises:
        UserError: If the planner does not support the strategy.
    """
    node = config.trainer.strategy
    return layout(OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node)


def _of_rollouts(config: DictConfig, block: DictConfig, source: ModelSource, models: Models) -> dict[str, Any]:
    module = block.module
    reward = next(iter(reward_models(config).values()), None)
    scorer = None if reward is None else _reward_source(reward, source, models)
    critic = None
    if instantiate(module.credit).estimator.critic:
        critic = source if block.critic_init == "policy" or scorer is None else like_policy(scorer, source)
    # This also holds for four separate models, which may be planned as one.
    policy_changed = any(not stage_record(name).trains_reward_model for name in models)
    return {
        "critic": critic,
        "critic_init": "policy" if reward is None else block.critic_init,
        "reward": scorer,
        "reward_adapter": None if reward is None else _reward_adapter(reward, source, models),
        "adapter_reference": policy_changed or reference_changes(source, block),
        "rollout_batch_size": module.rollout_batch_size,
        "rollout_micro_batch_size": module.rollout_micro_batch_size,
        "engine": own_engine(module.engine, source),
        **sampler_settings(module.engine, module.rollout_micro_batch_size),
        "samples_per_prompt": module.credit.num_samples_per_prompt,
        "ppo_epochs": module.ppo_epochs,
        "entropy": module.loss.ent_coef != 0,
        "exact_kl": module.exact_kl,
    }


def _reward_source(node: DictConfig, source: ModelSource, models: Models) -> ModelSource:
    dtype = node.get("dtype", source.dtype)
    if _is_to_come(node, models):
        return replace(source, adapter=None, adapter_dir=None, quantization=None, dtype=dtype)
    return ModelSource(pretrained=str(node.path), dtype=dtype, setting="reward.path")


def _reward_adapter(node: DictConfig, source: ModelSource, models: Models) -> Lora | None:
    """The adapter of a reward model on the shared model; None if it stays a model of its own (see `handed_on`)."""
    if _is_to_come(node, models):
        return source.adapter or Lora()
    folder = adapter_folder(Path(node.path))
    return adapter_kind(folder) if holds_adapter(folder) else None


def _is_to_come(node: DictConfig, models: Models) -> bool:
    """Whether a reward model has yet to be trained, by this run or by the run whose folder `reward.path` names."""
    if OmegaConf.is_missing(node, "path") or is_of_run(node.path, models):
        return True
    return Path(node.path).name == "model" and not Path(node.path).exists()


def plans_for_gpus(trainer: DictConfig) -> bool:
    """Whether a run uses GPUs."""
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and num_gpus() > 0)


def starts_here(trainer: DictConfig) -> bool:
    """Whether a run could start on this machine, because it has devices of that kind, so that its memory counts."""
    return not plans_for_gpus(trainer) or num_gpus() > 0


def num_gpus() -> int:
    """The number of GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def num_devices(devices: int | str | Sequence[int], *, on_gpu: bool) -> int:
    """The number of processes on a machine that `trainer.devices` asks for.

    Raises:
        UserError: If the list of devices is empty.
    """
    if devices in ("auto", -1, "-1"):
        return max(1, num_gpus()) if on_gpu else 1
    if isinstance(devices, int):
        return devices
    listed = devices.split(",") if isinstance(devices, str) else list(devices)
    if len(listed) == 1 and str(listed[0]).isdigit():
        return int(listed[0])
    if not listed:
        raise UserError(f"trainer.devices={devices}: expected a number of devices")
    return len(listed)
