"""Builds the parts of one stage from its configuration, and fits."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric.connector import _convert_precision_to_unified_args
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_rlhf.assembly.plan_stage import print_plan_line
from lightning_rlhf.assembly.reward_models import critic_source, put_on_backbone
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.shares import Shares
from lightning_rlhf.distributed.phases import release, shards_parameters
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.shared import Shared
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.rollout.dataset import check_sizes

BLOCKS = {"sft": "sft", "reward": "reward_model", "ppo": "ppo", "dpo": "dpo"}
"""The block of the configuration that holds each stage's settings; `reward` itself is where PPO's score comes from."""


@dataclass(frozen=True)
class Stage:
    """A stage that is ready to run. Its nets are not built yet, so that all stages can be prepared before the first."""

    name: str
    config: DictConfig
    folder: Path
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule


def prepare(config: DictConfig, name: str, folder: Path, renderer: Renderer) -> Stage:
    """Checks the settings of a stage and builds everything but the nets; its data are not read yet.

    Args:
        config: The whole configuration.
        name: sft, reward, ppo or dpo.
        folder: Where the stage writes.
        renderer: Makes tokens of conversations.

    Raises:
        UserError: If a setting is wrong.
    """
    config = config.copy()
    config.run_dir = str(folder)
    block = config[BLOCKS[name]]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    check_targets({key: plain[key] for key in ("model", "data", "trainer", "logger", "callbacks", BLOCKS[name])})
    if "write" in config.data:
        # Data that are computed, not read.
        instantiate(config.data.write)
    source: ModelSource = instantiate(config.model, _convert_="all")
    trainer = _trainer(config, name, source)
    check_quantization(source, block, config.roles, divides=shards_parameters(trainer))
    check_roles(config.roles, name, source)
    # Plain lists, since an optimizer keeps its settings in checkpoints, which hold no classes.
    nets = _nets(config, name, source, renderer)
    module = instantiate(block.module, _convert_="all", renderer=renderer, **nets)
    sizes = _minibatch_holder(block)
    Shares.of(sizes.minibatch_size, trainer)
    if "rollout_batch_size" in sizes:
        check_sizes(sizes.rollout_batch_size, sizes.minibatch_size, trainer.world_size)
    data = instantiate(block.data, renderer=renderer)
    return Stage(name, config, folder, trainer, module, data)


def fit(stage: Stage, checkpoint: Path | None) -> dict[str, Any]:
    """Runs a prepared stage.

    Args:
        stage: The stage.
        checkpoint: Where to go on from, if a run was stopped.

    Returns:
        What its `result.json` holds.

    Raises:
        KeyboardInterrupt: If the user stopped it; Lightning has cleaned up by then.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    trainer = stage.trainer
    pl.seed_everything(stage.config.seed, verbose=False)
    resolved = OmegaConf.to_container(stage.config, resolve=True)
    if trainer.is_global_zero:
        # What `export` reads beside a checkpoint: with what earlier stages of a pipeline have handed on.
        OmegaConf.save(OmegaConf.create(resolved), stage.folder / "config.yaml")
        _print_batches(stage)
        print_plan_line(stage.config, stage.name, stage.folder)
    for logger in trainer.loggers:
        logger.log_hyperparams({"config": resolved, "versions": versions()})
    try:
        # Weights only: a checkpoint may come from anybody, and must not run code.
        trainer.fit(stage.module, stage.data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    except SystemExit:
        # Lightning's way to end after Ctrl-C.
        if not trainer.interrupted:
            raise
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Otherwise the next stage would log into this stage's run.
                logger.experiment.finish()
    if trainer.interrupted:
        raise KeyboardInterrupt
    release(trainer)
    record = stage.folder / "result.json"
    return json.loads(record.read_text(encoding="utf-8"))


def _nets(config: DictConfig, name: str, source: ModelSource, renderer: Renderer) -> dict[str, Any]:
    """The builders of a stage's nets, and its gold metric."""
    # The name of a function, or a node that builds one.
    function = instantiate(config.data.gold) if isinstance(config.data.gold, DictConfig) else config.data.gold
    gold = TextReward(function) if function else None
    policy: Callable = partial(load_causal_lm, source)
    if name == "sft":
        return {"net": policy, "gold": gold}
    if name == "reward":
        return {"net": partial(load_scalar_model, source, "normal")}
    # Not trained, so nothing is beside its weights.
    reference: Callable = partial(load_causal_lm, source.frozen)
    if name == "dpo":
        return {"actor": policy, "reference": reference, "gold": gold}
    start = critic_source(config, source, renderer)
    shared = config.roles == "shared"
    if shared:
        put_on_backbone(config, source)
    check_targets({"reward": OmegaConf.to_container(config.reward, resolve=True)})
    reward: Any = instantiate(config.reward)
    if shared:
        changes = source.adapter_dir or config.ppo.module.refresh_reference_every
        actor = Shared(
            net=policy,
            reference="adapter" if changes else "base",
            critic_init=config.ppo.critic_init,
            critic_head=config.ppo.critic_head,
        )
        return {"actor": actor, "reward": reward, "gold": gold}
    critic = partial(load_scalar_model, start, config.ppo.critic_head)
    return {"actor": policy, "reference": reference, "critic": critic, "reward": reward, "gold": gold}


def _trainer(config: DictConfig, name: str, source: ModelSource) -> pl.Trainer:
    """The trainer of a stage: `trainer`, with what the stage's own `trainer` says."""
    block = config[BLOCKS[name]]
    if "tensorboard" in config.logger:
        require("tensorboard", "tensorboard", "logger=tensorboard")
    # What the settings of a callback or logger cannot say.
    added: dict[str, dict[str, Any]] = {
        "export": {"stage": name},
        "ema": {"stage": name},
        "record": {"stage": name},
        "progress": {"unit": "iteration" if name == "ppo" else "epoch"},
        "normalize": {"reference": partial(load_causal_lm, source.frozen)},
        # In W&B the stages of a pipeline are runs of one group.
        "wandb": {"name": name, "group": Path(config.run_dir).parent.name} if len(config.stages) > 1 else {},
    }
    nodes = {**config.callbacks, **block.callbacks}
    trainer = instantiate(
        config.trainer,
        _convert_="all",
        **block.trainer,
        callbacks=[instantiate(node, **added.get(key, {})) for key, node in nodes.items()],
        logger=[instantiate(node, **added.get(key, {})) for key, node in config.logger.items()],
        enable_checkpointing="checkpoint" in nodes,
        enable_progress_bar="progress" in nodes,
    )
    _check_precision({**config.trainer, **block.trainer}["precision"], trainer)
    every = trainer.check_val_every_n_epoch
    if trainer.max_epochs % every:
        path = f"{BLOCKS[name]}.trainer"
        raise UserError(
            f"{path}.max_epochs={trainer.max_epochs} does not divide by {path}.check_val_every_n_epoch={every}, "
            "so the end would not be evaluated: change one of them"
        )
    return trainer


def _check_precision(asked: Any, trainer: pl.Trainer) -> None:
    """Checks that Lightning has not taken another precision than the one asked for, of which it only warns."""
    with warnings.catch_warnings():
        # Of other names, such as 16: the trainer has said so.
        warnings.simplefilter("ignore")
        wanted = _convert_precision_to_unified_args(asked)
    # Not that of the plugin, which a strategy may bring and tell only when it is set up.
    taken = trainer._accelerator_connector._precision_flag
    if wanted not in (None, taken):
        raise UserError(
            f"trainer.precision={asked}: on this device Lightning would compute in {taken}: ask for {taken} or 32-true"
        )


def _minibatch_holder(block: DictConfig) -> DictConfig:
    """The node that says `minibatch_size`: PPO's module makes its own batches."""
    return block.module if "minibatch_size" in block.module else block.data


def _print_batches(stage: Stage) -> None:
    """Prints how a minibatch is shared: the one unit is sequences, over all processes."""
    holder, trainer = _minibatch_holder(stage.config[BLOCKS[stage.name]]), stage.trainer
    cells = {
        "minibatch": holder.minibatch_size,
        "processes": trainer.world_size,
        "accumulate": trainer.accumulate_grad_batches,
        "micro-batch": Shares.of(holder.minibatch_size, trainer).micro_batch_size,
    }
    if "rollout_batch_size" in holder:
        updates = holder.rollout_batch_size // holder.minibatch_size * holder.ppo_epochs
        cells = {"rollout": holder.rollout_batch_size} | cells | {"updates": updates}
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*map(str, cells.values()))
    Console().print(table)
