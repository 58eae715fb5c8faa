"""Builds the trainer of a stage, and raises errors where Lightning would only warn."""

import warnings
from functools import partial

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric.connector import _convert_precision_to_unified_args
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from lightning_rlhf.assembly.export_sampling import sampling_settings
from lightning_rlhf.assembly.loggers import logger_settings
from lightning_rlhf.callbacks import EvaluateEnd
from lightning_rlhf.data.adapting import adapted
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.stages import StageRecord


def build_trainer(config: DictConfig, record: StageRecord, source: ModelSource) -> pl.Trainer:
    """Builds the trainer of a stage from `trainer` of the configuration and `trainer` of the block of the stage.

    Args:
        config: The configuration of the stage.
        record: The record of the stage.
        source: Source of the policy.

    Raises:
        UserError: If Lightning would use another precision than the settings ask for, or a logger is not installed.
    """
    block = config[record.block]
    if "tensorboard" in config.logger:
        require("tensorboard", "tensorboard", "logger=tensorboard")
    exported: dict[str, object] = {"stage": record.name, "sampling": sampling_settings(config, record)}
    # Arguments of callbacks and loggers that do not come from their settings.
    added: dict[str, dict[str, object]] = {
        **dict.fromkeys(("export", "ema", "best"), exported),
        "record": {"stage": record.name},
        "progress": {"unit": record.unit},
        "normalize": {"reference": partial(load_causal_lm, source.frozen)},
        **logger_settings(config, record.name),
    }
    nodes = {**config.callbacks, **block.callbacks}
    trainer = instantiate(
        config.trainer,
        _convert_="all",
        **block.trainer,
        callbacks=[EvaluateEnd(), *(instantiate(node, **added.get(key, {})) for key, node in nodes.items())],
        logger=[instantiate(node, **added.get(key, {})) for key, node in config.logger.items()],
        enable_checkpointing="checkpoint" in nodes,
        enable_progress_bar="progress" in nodes,
    )
    # EvaluateEnd must see whether Lightning's timer, which max_time adds behind it, ends the run.
    trainer.callbacks.sort(key=lambda callback: not isinstance(callback, Timer))
    _check_precision({**config.trainer, **block.trainer}["precision"], trainer)
    every = trainer.check_val_every_n_epoch
    if every and trainer.max_epochs > 0 and trainer.max_epochs % every:
        adapted(
            f"check_val_every_n_epoch={every} does not divide max_epochs={trainer.max_epochs}, so the last "
            f"{record.unit} is evaluated too"
        )
    return trainer


def _check_precision(asked: str | int | None, trainer: pl.Trainer) -> None:
    """Checks that Lightning uses the precision that was asked for. Lightning only warns if it does not."""
    with warnings.catch_warnings():
        # The trainer has already warned about old names of precisions, such as 16.
        warnings.simplefilter("ignore")
        wanted = _convert_precision_to_unified_args(asked)  # type: ignore[arg-type]
    # The precision of the plugin would not do: a strategy may have its own plugin, and know it only after its setup.
    taken = trainer._accelerator_connector._precision_flag
    if wanted not in (None, taken):
        raise UserError(
            f"trainer.precision={asked}: on this device Lightning would compute in {taken}: set {taken} or 32-true"
        )
