"""From the configuration of a stage to what the planner takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.reward_models import like_policy, reward_models
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.files import adapter_folder, adapter_kind, holds_adapter
from lightning_rlhf.models.adapters.lora import Lora
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.layout import Layout, layout


def job_of(config: DictConfig, stage: str) -> Job:
    """What the planner takes of a stage; no weights are read.

    Raises:
        UserError: If a setting is wrong, or the planner does not know what the configuration names.
    """
    block, trainer = config["reward_model" if stage == "reward" else stage], config.trainer
    source: ModelSource = instantiate(config.model, _convert_="all")
    spread, on_gpu = layout_of(config), _on_gpu(trainer)
    roles = config.get("roles", "separate")
    check_quantization(source, block, roles, divides=spread.divides_weights)
    check_roles(roles, stage, source)
    processes = num_devices(trainer.devices, on_gpu=on_gpu)
    sizes = block.module if "minibatch_size" in block.module else block.data
    settings: dict[str, Any] = {
        "stage": stage,
        "model": source,
        "shared": roles == "shared",
        "layout": spread if on_gpu else spread.on_cpus(),
        "precision": str(trainer.precision),
        "on_gpu": on_gpu,
        "processes": processes * trainer.num_nodes,
        "processes_per_node": processes,
        "optimizer": block.module.optim.optimizer["_target_"],
        "optimizer_bits": block.module.optim.optimizer.get("bits", 32),
        "minibatch_size": sizes.minibatch_size,
        "accumulate": block.trainer.accumulate_grad_batches,
    }
    if stage == "ppo":
        settings |= _of_ppo(config, source)
    if stage == "reward" and "normalize" in block.callbacks:
        node = block.callbacks.normalize
        settings |= {
            "rollout_batch_size": node.num_samples,
            "rollout_micro_batch_size": node.batch_size,
            "normalizing_length": node.sampling.max_new_tokens,
        }
    prompt, response = lengths(config, stage)
    reference = stage == "dpo" and not block.module.reference_free
    return Job(**settings, prompt_length=prompt, response_length=response, reference=reference)


def layout_of(config: DictConfig) -> Layout:
    """What the strategy of a configuration holds where, if its devices are GPUs.

    Raises:
        UserError: If the planner does not know it.
    """
    node = config.trainer.strategy
    return layout(OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node)


def lengths(config: DictConfig, stage: str) -> tuple[int, int]:
    """Tokens of prompt and response: those that a plan is asked for, or the longest that are allowed.

    Raises:
        UserError: If they cannot be.
    """
    prompt, response = config.get("prompt_length"), config.get("response_length")
    block = config["reward_model" if stage == "reward" else stage]
    if stage == "ppo":
        return prompt or block.data.max_prompt_length, response or block.module.sampling.max_new_tokens
    if (prompt is None) != (response is None):
        given = f"prompt_length={prompt}" if response is None else f"response_length={response}"
        raise UserError(f"{given}: rows of stage={stage} are of prompt and response: give both lengths")
    if prompt is not None and response is not None:
        return prompt, response
    # The longest response of DPO has a prompt of one token.
    least = 1 if stage == "dpo" else 0
    return least, block.data.max_length - least


def _of_ppo(config: DictConfig, source: ModelSource) -> dict[str, Any]:
    block = config.ppo
    module = block.module
    rewards = list(reward_models(config).values())
    reward = _reward_source(rewards[0], source) if rewards else None
    critic = None
    if instantiate(module.credit).estimator.critic:
        critic = source if block.critic_init == "policy" or reward is None else like_policy(reward, source)
    return {
        "critic": critic,
        "critic_init": block.critic_init if rewards else "policy",
        "reward": reward,
        "reward_adapter": _reward_adapter(rewards[0], source) if rewards else None,
        # What the SFT of a pipeline hands on is an adapter, which is not there yet.
        "adapter_reference": bool(source.adapter_dir or module.refresh_reference_every or "sft" in config.stages),
        "rollout_batch_size": module.rollout_batch_size,
        "rollout_micro_batch_size": module.rollout_micro_batch_size,
        "ppo_epochs": module.ppo_epochs,
        "entropy_grad": module.loss.ent_coef != 0,
        "exact_kl": module.exact_kl,
        "ptx_length": block.data.ptx_max_length if module.ptx_coef else 0,
    }


def _reward_source(node: DictConfig, source: ModelSource) -> ModelSource:
    """Where a reward model comes from; one that is not there yet is planned as one of the actor's size."""
    if _is_to_come(node):
        return replace(source, adapter=None, adapter_dir=None, quantization=None, dtype=node.get("dtype", source.dtype))
    return ModelSource(pretrained=str(node.path), dtype=node.get("dtype", source.dtype), setting="reward.path")


def _reward_adapter(node: DictConfig, source: ModelSource) -> Lora | None:
    """What a reward model is on a net that plays all roles; None: a net of its own there too (`put_on_backbone`)."""
    if _is_to_come(node):
        return source.adapter or Lora()
    folder = adapter_folder(Path(node.path))
    return adapter_kind(folder) if holds_adapter(folder) else None


def _is_to_come(node: DictConfig) -> bool:
    """Whether an earlier stage is still to train a reward model."""
    return OmegaConf.is_missing(node, "path") or (Path(node.path).name == "model" and not Path(node.path).exists())


def _on_gpu(trainer: DictConfig) -> bool:
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and num_gpus() > 0)


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def num_devices(devices: Any, *, on_gpu: bool) -> int:
    """Processes of a machine behind `trainer.devices`.

    Raises:
        UserError: If it is none of what Lightning takes.
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
