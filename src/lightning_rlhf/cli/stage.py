"""Builds the parts of one stage from its configuration, and fits."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.loader import micro_batch_size
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.roles import Net
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards import TextReward

BLOCKS = {"sft": "sft", "reward": "reward_model", "ppo": "ppo"}
"""The block of the configuration that holds each stage's settings; `reward` itself is where PPO's score comes from."""


def run_stage(config: DictConfig, stage: str, folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Runs one stage.

    Args:
        config: The whole configuration, with `run_dir` set to the folder.
        stage: sft, reward or ppo.
        folder: Where the stage writes.
        checkpoint: Where to go on from, if a run was stopped.

    Returns:
        What its `result.json` holds.
    """
    pl.seed_everything(config.seed, verbose=False)
    block = config[BLOCKS[stage]]
    source: ModelSource = instantiate(config.model)
    renderer = Renderer(source.load_tokenizer(), config.data.template, stop_ids=source.stop_ids())
    trainer = build_trainer(config, stage, source)
    data_module = instantiate(block.data, renderer=renderer)
    module = instantiate(block.module, renderer=renderer, **nets(config, stage, source, renderer))
    print_batches(stage, block, trainer)
    resolved = OmegaConf.to_container(config, resolve=True)
    for logger in trainer.loggers:
        logger.log_hyperparams({"config": resolved, "versions": versions()})
    trainer.fit(module, data_module, ckpt_path=str(checkpoint) if checkpoint else None)
    return json.loads((folder / "result.json").read_text()) if trainer.is_global_zero else {}


def nets(config: DictConfig, stage: str, source: ModelSource, renderer: Renderer) -> dict[str, Any]:
    """The builders of a stage's nets, and its gold metric."""
    gold = TextReward(config.data.gold) if config.data.gold else None
    policy: Callable = partial(load_causal_lm, source)
    if stage == "sft":
        return {"net": policy, "gold": gold}
    if stage == "reward":
        return {"net": partial(load_scalar_model, source, "normal")}
    reward: Net | TextReward = instantiate(config.reward)
    critic_source = source
    if not isinstance(reward, TextReward):
        reward_source = ModelSource(pretrained=config.reward.path, dtype=config.reward.dtype)
        check_same_tokenizer(reward_source, renderer)
        if config.ppo.critic_init == "reward":
            critic_source = reward_source
    critic = partial(load_scalar_model, critic_source, "zero")
    return {"actor": policy, "reference": policy, "critic": critic, "reward": reward, "gold": gold}


def check_same_tokenizer(reward_source: ModelSource, renderer: Renderer) -> None:
    """Checks that the reward model reads the ids that the actor writes.

    Raises:
        UserError: If their vocabularies differ.
    """
    if reward_source.load_tokenizer().get_vocab() != renderer.tokenizer.get_vocab():
        raise UserError(
            f"reward.path={reward_source.pretrained}: its tokenizer is not the one of the actor; train the reward "
            "model from the same model as the actor"
        )


def build_trainer(config: DictConfig, stage: str, source: ModelSource) -> pl.Trainer:
    """The trainer of a stage: `trainer`, with what the stage's own `trainer` says."""
    block = config[BLOCKS[stage]]
    if "tensorboard" in config.logger:
        require("tensorboard", "tensorboard", "logger=tensorboard")
    callbacks = []
    for name, node in {**config.callbacks, **block.callbacks}.items():
        own = {
            "export": {"stage": stage},
            "record": {"stage": stage},
            "progress": {"unit": "iteration" if stage == "ppo" else "epoch"},
            "normalize": {"reference": partial(load_causal_lm, source)},
        }.get(name, {})
        callbacks.append(instantiate(node, **own))
    loggers = [instantiate(node) for node in config.logger.values()]
    settings = {**block.trainer, "callbacks": callbacks, "logger": loggers or False}
    settings["enable_checkpointing"] = "checkpoint" in config.callbacks
    settings["enable_progress_bar"] = "progress" in config.callbacks
    trainer = instantiate(config.trainer, _convert_="all", **settings)
    check_epochs(stage, trainer)
    return trainer


def check_epochs(stage: str, trainer: pl.Trainer) -> None:
    """Checks that the last epoch is validated.

    Raises:
        UserError: If it is not.
    """
    every = trainer.check_val_every_n_epoch
    if every and trainer.max_epochs is not None and trainer.max_epochs % every:
        name = f"{BLOCKS[stage]}.trainer"
        raise UserError(
            f"{name}.max_epochs={trainer.max_epochs} does not divide by {name}.check_val_every_n_epoch={every}, "
            "so the end would not be evaluated: change one of them"
        )


def print_batches(stage: str, block: DictConfig, trainer: pl.Trainer) -> None:
    """Prints how a minibatch is shared: the one unit is sequences, over all processes.

    Raises:
        UserError: If it cannot be shared.
    """
    holder = block.module if stage == "ppo" else block.data
    minibatch, micro = holder.minibatch_size, micro_batch_size(holder.minibatch_size, trainer)
    if not trainer.is_global_zero:
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    cells = {"minibatch": minibatch, "processes": trainer.world_size, "accumulated": trainer.accumulate_grad_batches}
    cells["micro-batch"] = micro
    if stage == "ppo":
        per_epoch = holder.rollout_batch_size // holder.minibatch_size
        cells = {"rollout": holder.rollout_batch_size} | cells
        cells["updates/iteration"] = per_epoch * holder.ppo_epochs
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*map(str, cells.values()))
    Console().print(table)
