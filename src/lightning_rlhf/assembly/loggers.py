"""What loggers are told about a run: its name, its group, and which earlier run it continues."""

import glob
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig

from lightning_rlhf.assembly.run_files import is_job_of_sweep
from lightning_rlhf.console import console
from lightning_rlhf.distributed.collectives import is_first_process
from lightning_rlhf.waiting import announced

if TYPE_CHECKING:
    import wandb

_LONGEST_UPLOAD = "600"
"""Seconds at the end of a stage. What has not been uploaded by then is on the disk, and `wandb sync` uploads it."""
_KEPT = ("report.html", "samples.jsonl", "metrics.csv", "result.json", "config.yaml")
"""The files of a run that W&B keeps, without weights."""


def logger_settings(config: DictConfig, stage: str) -> dict[str, dict[str, object]]:
    """Returns the arguments of loggers that depend on the run, by the names of their nodes.

    Runs are named after the stage and the run folder, such as `sft-2026-11-30_09-00-00`, in W&B and in TensorBoard. In
    W&B, the stages of a pipeline form a group, and so do all runs of a sweep. What the user has set stays as it is.

    Args:
        config: The configuration of the stage.
        stage: Name of the stage.
    """
    own = Path(config.run_dir)
    run = own.parent if len(config.stages) > 1 else own
    sweep = run.parent if is_job_of_sweep(run) else None
    name = f"{stage}-{run.name}" if sweep is None else f"{stage}-{sweep.name}-{run.name}"
    group = sweep.name if sweep is not None else run.name if run != own else None
    about: dict[str, object] = {"name": name, "group": group, "job_type": stage, "id": _earlier_id(config, stage)}
    given = config.logger.get("wandb") or {}
    return {
        "wandb": {key: value for key, value in about.items() if value is not None and given.get(key) is None},
        "tensorboard": {"version": name},
    }


def begin(trainer: pl.Trainer, hyperparameters: dict[str, object]) -> None:
    """Logs the settings of a run, and says where W&B shows it, because W&B itself is silent."""
    for logger in trainer.loggers:
        if not isinstance(logger, WandbLogger) or not is_first_process():
            logger.log_hyperparams(hyperparameters)
            continue
        import wandb

        # Otherwise W&B waits at the end of each stage until it has a connection again.
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", _LONGEST_UPLOAD)
        # Reads WANDB_SILENT; otherwise W&B would do so only after its first warnings.
        wandb.setup()
        logger.log_hyperparams(hyperparameters)
        run = logger.experiment
        if run.url:
            console.say(f" W&B: {run.url}")
        elif not run.disabled:
            folders = folders_of_run(Path(run.dir).parent, run.id)
            # A command that is to be copied must not be broken.
            line = f" W&B is offline; this uploads the run later: wandb sync {folders}"
            console.print(line, markup=False, soft_wrap=True)


def folders_of_run(folder: Path, run_id: str) -> str:
    """The words for a shell that name all folders of a run of W&B.

    An offline run that goes on writes another folder with the same id. W&B uploads them in order if it gets them
    together; the last one alone would take the place of what was uploaded before.

    Args:
        folder: The newest folder of the run.
        run_id: The id of the run. W&B ends the name of each folder with it.
    """
    # The time stamp before the id has no hyphen, but an id may have one, and another id may end like this one.
    stamp = f"*_{'[0-9]' * 6}-"
    several = len(list(folder.parent.glob(stamp + glob.escape(run_id)))) > 1
    return f"{shlex.quote(str(folder.parent))}/{stamp}{shlex.quote(run_id)}" if several else shlex.quote(str(folder))


def finish(trainer: pl.Trainer) -> None:
    """Gives W&B the files of the run to keep, and ends the run there. Otherwise the next stage would log into it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if is_first_process():
                _keep_files(logger.experiment, Path(trainer.default_root_dir))
            with announced("Weights & Biases, which uploads the rest of the run"):
                logger.experiment.finish()


def _keep_files(run: "wandb.Run", folder: Path) -> None:
    """Logs an artifact with the run card and the texts behind it; a run that goes on logs a new version of it."""
    import wandb

    files = [folder / name for name in _KEPT if (folder / name).is_file()]
    if not files:
        return
    artifact = wandb.Artifact(f"run-card-{run.id}", type="run-card", description="The run card, and what it shows")
    for file in files:
        artifact.add_file(str(file), name=file.name)
    run.log_artifact(artifact)


def _earlier_id(config: DictConfig, stage: str) -> str | None:
    """The id in W&B of the run that this one continues; None if it starts from the beginning."""
    if config.resume is None:
        return None
    resume = Path(config.resume).expanduser()
    places = [resume.parents[1]] if resume.suffix == ".ckpt" else [resume / stage, resume]
    for place in [Path(config.run_dir), *places]:
        # W&B names its folder of a run after the time and the id: [offline-]run-20261130_090000-abcd1234.
        runs = sorted(place.glob("wandb/*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))
        if runs and (place / "checkpoints").is_dir():
            return runs[-1].name.partition("run-")[2].partition("-")[2]
    return None
