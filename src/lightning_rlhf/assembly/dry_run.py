"""A dry run: all that a run does before its first step."""

import logging
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from omegaconf import DictConfig

from lightning_rlhf.assembly.interrupted import interruptions
from lightning_rlhf.assembly.micro_batches import adapted_config, choose_parts
from lightning_rlhf.assembly.plan_stage import print_plan_line
from lightning_rlhf.assembly.run import prepare_all
from lightning_rlhf.assembly.stage import PreparedStage, print_batches
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.distributed.phases import release

log = logging.getLogger(__name__)


class _FirstStepIsNext(Exception):
    """Ends a dry run."""


class _EndBeforeFirstStep(pl.Callback):
    """Follows all other callbacks, so that all of them start."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise _FirstStepIsNext


def rehearse(config: DictConfig, folder: Path) -> None:
    """Does all that a run does before its first step, and prints what the run would do.

    All settings are checked and all data are read. The models of the first stage are built as the strategy places them,
    a checkpoint is restored if the run resumes, `callbacks.start_checks` is made, and one batch of held-out data is
    evaluated if the stage evaluates them before it trains. The models of later stages do not exist yet.

    Args:
        config: The composed configuration of `train`. It is not changed.
        folder: Folder for what a run writes before its first step; nobody needs it afterwards.

    Raises:
        UserError: If the user can correct the error.
    """
    config = config.copy()
    # A logger could send something to a service.
    config.logger = {}
    stages, resumed = prepare_all(config, folder)
    for stage in stages:
        _print_stage(stage)
    if stages:
        first = stages[0]
        _start(first, resumed.checkpoints.get(first.record.name), config.seed)
    later = ", ".join(stage.record.name for stage in stages[1:])
    _say("\ndry run: all that comes before the first step has worked")
    if later:
        _say(f"the models of {later} come from earlier stages and were not built; doctor tries these stages too")


def _start(stage: PreparedStage, checkpoint: Path | None, seed: int) -> None:
    trainer = stage.trainer
    pl.seed_everything(seed, verbose=False)
    trainer.num_sanity_val_steps = min(trainer.num_sanity_val_steps, 1)
    trainer.callbacks.append(_EndBeforeFirstStep())  # type: ignore[attr-defined]
    try:
        with interruptions():
            trainer.fit(stage.module, stage.data, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except _FirstStepIsNext:
        release(trainer)


def _print_stage(stage: PreparedStage) -> None:
    record, data = stage.record, cast(Any, stage.data)
    choose_parts(stage)
    rows = data.train_prompts if record.samples else data.train_rows
    what = "prompts" if record.samples else "rows"
    _say(f"\n{record.name}: {stage.trainer.max_epochs} {record.unit}s, {len(rows):,} {what}")
    if is_first_process():
        stage.folder.mkdir(parents=True, exist_ok=True)
        adapted = adapted_config(stage)
        print_batches(stage, adapted)
        print_plan_line(adapted, record.name, stage.folder)


def _say(message: str) -> None:
    if is_first_process():
        log.info(message)
