"""Prepares one stage of a configuration, and runs it."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_rlhf.assembly.handoff import Models, handed_on
from lightning_rlhf.assembly.nets import nets_of
from lightning_rlhf.assembly.plan_stage import print_plan_line
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles, minibatch_settings
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.assembly.trainer import build_trainer
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.shares import Shares
from lightning_rlhf.distributed.phases import release, shards_parameters
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.dataset import check_sizes
from lightning_rlhf.stages import StageRecord, stage_record


@dataclass(frozen=True)
class PreparedStage:
    """A stage that is ready to run. Its nets are not built yet, so that all stages can be prepared before the first."""

    record: StageRecord
    config: DictConfig
    folder: Path
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule


def prepare(
    config: DictConfig, name: str, folder: Path, renderer: Renderer, models: Models = MappingProxyType({})
) -> PreparedStage:
    """Checks the settings of a stage and builds everything but the nets; its data are not read yet.

    Args:
        config: Of the run; it stays as it is.
        name: Of the stage, see `lightning_rlhf.stages`.
        folder: Where the stage writes.
        renderer: Makes tokens of conversations.
        models: What earlier stages of the run leave.

    Raises:
        UserError: If a setting is wrong, or there is no such stage.
    """
    record = stage_record(name)
    config = handed_on(config, models)
    config.run_dir = str(folder)
    block = config[record.block]
    plain: Any = OmegaConf.to_container(config, resolve=True)
    check_targets({key: plain[key] for key in ("model", "data", "trainer", "logger", "callbacks", record.block)})
    if "write" in config.data:
        # Data that are computed, not read.
        instantiate(config.data.write)
    source: ModelSource = instantiate(config.model, _convert_="all")
    trainer = build_trainer(config, record, source)
    check_quantization(source, block, config.roles, divides=shards_parameters(trainer))
    check_roles(config.roles, record, source)
    # Plain lists, since an optimizer keeps its settings in checkpoints, which hold no classes.
    nets = nets_of(config, record, source, renderer, models)
    module = instantiate(block.module, _convert_="all", renderer=renderer, **nets)
    sizes = minibatch_settings(block)
    Shares.of(sizes.minibatch_size, trainer)
    if record.samples:
        check_sizes(sizes.rollout_batch_size, sizes.minibatch_size, trainer.world_size)
    data = instantiate(block.data, renderer=renderer)
    return PreparedStage(record, config, folder, trainer, module, data)


def fit(stage: PreparedStage, checkpoint: Path | None) -> dict[str, Any]:
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
        print_plan_line(stage.config, stage.record.name, stage.folder)
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
    return json.loads((stage.folder / "result.json").read_text(encoding="utf-8"))


def _print_batches(stage: PreparedStage) -> None:
    """Prints how a minibatch is shared: the one unit is sequences, over all processes."""
    sizes, trainer = minibatch_settings(stage.config[stage.record.block]), stage.trainer
    cells = {
        "minibatch": sizes.minibatch_size,
        "processes": trainer.world_size,
        "accumulate": trainer.accumulate_grad_batches,
        "micro-batch": Shares.of(sizes.minibatch_size, trainer).micro_batch_size,
    }
    if stage.record.samples:
        updates = sizes.rollout_batch_size // sizes.minibatch_size * sizes.ppo_epochs
        cells = {"rollout": sizes.rollout_batch_size} | cells | {"updates": updates}
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*map(str, cells.values()))
    Console().print(table)
