"""Prepares one stage of a configuration, and runs it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from lightning_rlhf.assembly.attention import attention_of
from lightning_rlhf.assembly.handoff import Models, handed_on
from lightning_rlhf.assembly.interrupted import interruptions
from lightning_rlhf.assembly.loggers import begin, finish
from lightning_rlhf.assembly.micro_batches import SETTING, adapted_config, choose_parts, most_tokens
from lightning_rlhf.assembly.nets import nets_of
from lightning_rlhf.assembly.plan_stage import print_plan_line
from lightning_rlhf.assembly.result import RunResult
from lightning_rlhf.assembly.stage_checks import check_quantization, check_roles, minibatch_settings
from lightning_rlhf.assembly.target_checks import check_targets, of_stage
from lightning_rlhf.assembly.trainer import build_trainer
from lightning_rlhf.callbacks.run_record import versions
from lightning_rlhf.console import console
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.shares import Shares, check_sizes
from lightning_rlhf.data.templates import TEMPLATES, template_text
from lightning_rlhf.distributed.phases import release, shards_parameters
from lightning_rlhf.errors import UserError, older_version
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.stages import StageRecord, stage_record


@dataclass(frozen=True)
class PreparedStage:
    """A stage that is ready to run. Its models are not built yet, so that all stages can be prepared beforehand."""

    record: StageRecord
    config: DictConfig
    folder: Path
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule


def prepare(
    config: DictConfig, name: str, folder: Path, renderer: Renderer, models: Models = MappingProxyType({})
) -> PreparedStage:
    """Checks the settings of a stage and builds everything except the models. The data are not read yet.

    Args:
        config: The configuration of the run. It is not changed.
        name: Name of the stage, see `lightning_rlhf.stages`.
        folder: Folder of the stage.
        renderer: Turns conversations into tokens.
        models: Folders of the models that earlier stages of the run leave.

    Raises:
        UserError: If a setting is wrong, or the stage does not exist.
    """
    record = stage_record(name)
    config = handed_on(config, models)
    config.run_dir = str(folder)
    if config.data.template not in (None, *TEMPLATES):
        # The settings of a run contain a template from a file, which may change or may not be where they are read.
        config.data.template = template_text(config.data.template)
    block = config[record.block]
    check_targets(of_stage(config, record.block, resolve=True))
    if "write" in config.data:
        # The data are computed first, and then read like any others.
        instantiate(config.data.write)
    config.model.attn_implementation = attention_of(config, block)
    source: ModelSource = instantiate(config.model, _convert_="all")
    trainer = build_trainer(config, record, source)
    check_quantization(source, block, config.roles, divides=shards_parameters(trainer))
    check_roles(config.roles, record, source)
    # Converts to plain lists, because an optimizer saves its settings in checkpoints, which hold no classes.
    nets = nets_of(config, record, source, renderer, models)
    module = instantiate(block.module, _convert_="all", renderer=renderer, **nets)
    data = instantiate(block.data, renderer=renderer)
    stage = PreparedStage(record, config, folder, trainer, module, data)
    sizes = minibatch_settings(adapted_config(stage)[record.block])
    Shares.of(sizes.minibatch_size, trainer)
    if record.samples:
        check_sizes(sizes.rollout_batch_size, sizes.minibatch_size, trainer.world_size)
    return stage


def read_data(stage: PreparedStage) -> None:
    """Reads the data of a stage, and adapts sizes that they do not fill.

    Raises:
        UserError: If the data cannot be used.
    """
    # The size of a minibatch depends on the number of processes.
    stage.data.trainer = stage.trainer
    stage.data.setup("fit")


def fit(stage: PreparedStage, checkpoint: Path | None) -> RunResult:
    """Runs a prepared stage.

    Args:
        stage: The stage.
        checkpoint: The checkpoint to resume from, if an earlier run was stopped.

    Returns:
        The content of the `result.json` of the stage.

    Raises:
        UserError: If the checkpoint lacks what this version saves, or is of another model.
        KeyboardInterrupt: If a signal stops the stage. Lightning has cleaned up by then.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    trainer = stage.trainer
    pl.seed_everything(stage.config.seed, verbose=False)
    choose_parts(stage)
    resolved = OmegaConf.to_container(stage.config, resolve=True)
    if trainer.is_global_zero:
        # `export` reads these settings next to a checkpoint, so they include what earlier stages have handed on.
        OmegaConf.save(OmegaConf.create(resolved), stage.folder / "config.yaml")
        adapted = adapted_config(stage)
        print_batches(stage, adapted)
        print_plan_line(adapted, stage.record.name, stage.folder)
    begin(trainer, {"config": resolved, "versions": versions()})
    try:
        logs = [kept_until_replaced(stage.folder / name) for name in ("metrics.csv", "samples.jsonl")]
        with interruptions(), logs[0], logs[1]:
            # Loads weights only, because a checkpoint need not be trusted and must not run code.
            trainer.fit(stage.module, stage.data, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except KeyError as error:
        # Lightning holds the checkpoint until all parts of the run have taken their entries.
        if not trainer._checkpoint_connector._loaded_checkpoint:
            raise
        raise older_version(error) from error
    except RuntimeError as error:
        # PyTorch's message about weights that do not fit names all of them, a line each.
        head, _, differing = str(error).partition("\n")
        if checkpoint is None or not head.startswith("Error(s) in loading state_dict"):
            raise
        raise UserError(
            f"resume={stage.config.resume}: {checkpoint} is of another model than that of stage={stage.record.name}: "
            f"{' '.join(differing.split())[:200]}…; resume it with the settings of its own run"
        ) from error
    finally:
        finish(trainer)
    release(trainer)
    return json.loads((stage.folder / "result.json").read_text(encoding="utf-8"))


@contextmanager
def kept_until_replaced(log: Path) -> Iterator[None]:
    """Context that puts a log back if an error ends it before there is another one.

    When a run starts, logs of an earlier run in its folder are removed. They come back when the checkpoint is read.
    """
    content = log.read_bytes() if log.is_file() else None
    try:
        yield
    except BaseException:
        if content is not None and not log.exists():
            log.write_bytes(content)
        raise


def print_batches(stage: PreparedStage, config: DictConfig) -> None:
    """Prints how the processes share a minibatch. Sizes are in sequences, and the most tokens are of a micro-batch."""
    sizes, trainer = minibatch_settings(config[stage.record.block]), stage.trainer
    cells = {
        "minibatch": sizes.minibatch_size,
        "processes": trainer.world_size,
        "accumulate": trainer.accumulate_grad_batches,
        "micro-batch": Shares.of(sizes.minibatch_size, trainer, sizes.get(SETTING)).micro_batch_size,
    }
    if (tokens := most_tokens(stage)) is not None:
        cells["tokens at most"] = tokens
    if stage.record.samples:
        updates = sizes.rollout_batch_size // sizes.minibatch_size * sizes.ppo_epochs
        cells = {"rollout": sizes.rollout_batch_size} | cells | {"updates": updates}
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in cells:
        table.add_column(name, justify="right")
    table.add_row(*(f"{cell:,}" for cell in cells.values()))
    console.table(table)
