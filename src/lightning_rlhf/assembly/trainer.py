"""Builds the trainer of a stage, and checks what Lightning would only warn of."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric.connector import _convert_precision_to_unified_args
from omegaconf import DictConfig

from lightning_rlhf.errors import UserError, require
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.stages import StageRecord


def build_trainer(config: DictConfig, record: StageRecord, source: ModelSource) -> pl.Trainer:
    """The trainer of a stage: `trainer` of the configuration, with what the stage's own `trainer` says.

    Args:
        config: Of the stage.
        record: Of the stage.
        source: Of the policy.

    Raises:
        UserError: If Lightning would take another precision, the last epoch would not be evaluated, or a logger is
            not installed.
    """
    block = config[record.block]
    if "tensorboard" in config.logger:
        require("tensorboard", "tensorboard", "logger=tensorboard")
    # What the settings of a callback or logger cannot say.
    added: dict[str, dict[str, Any]] = {
        "export": {"stage": record.name},
        "ema": {"stage": record.name},
        "record": {"stage": record.name},
        "progress": {"unit": record.unit},
        "normalize": {"reference": partial(load_causal_lm, source.frozen)},
        # In W&B the stages of a pipeline are runs of one group.
        "wandb": ({"name": record.name, "group": Path(config.run_dir).parent.name} if len(config.stages) > 1 else {}),
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
        path = f"{record.block}.trainer"
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
