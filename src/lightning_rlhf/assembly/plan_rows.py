"""Finds the minibatch that `train` will use if there are few rows, so that a plan is about the same sizes."""

from itertools import islice

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.plan_job import num_devices, plans_for_gpus
from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage_checks import minibatch_settings
from lightning_rlhf.data.adapting import collected
from lightning_rlhf.data.paths import is_local
from lightning_rlhf.data.shares import filled
from lightning_rlhf.data.sources import source_of
from lightning_rlhf.errors import UserError
from lightning_rlhf.modules.ppo_rollout import within_rollout
from lightning_rlhf.stages import stage_record

_ENOUGH = 3
"""Data with this many times the rows of a minibatch fill it, whatever is held out or too long, and are not read."""


def with_filled_minibatch(config: DictConfig, stage: str) -> tuple[DictConfig, list[str]]:
    """Adapts the size of a minibatch as `train` does.

    A plan needs no data, so data that do not exist, are wrong, or lie on the hub leave the size as it is.

    Args:
        config: The configuration of the run. It is not changed.
        stage: Name of the stage.

    Returns:
        The configuration with the size that `train` will use, and notes about what was adapted.
    """
    record, config = stage_record(stage), config.copy()
    block = config[record.block]
    sizes, trainer = minibatch_settings(block), config.trainer
    shares = num_devices(trainer.devices, on_gpu=plans_for_gpus(trainer)) * trainer.num_nodes
    with collected() as notes:
        if record.samples:
            sizes.minibatch_size = within_rollout(sizes.minibatch_size, sizes.rollout_batch_size)
        elif (rows := _few_rows(config, block.data)) is not None:
            sizes.minibatch_size = filled(sizes.minibatch_size, rows, shares * block.trainer.accumulate_grad_batches)
    return config, notes


def _few_rows(config: DictConfig, data: DictConfig) -> int | None:
    """The number of rows to train on, if there may be too few for a minibatch; otherwise None."""
    path = None if OmegaConf.is_missing(data, "path") else data.path
    try:
        reading = instantiate(data.reading)
        if not isinstance(path, str) or not is_local(path, reading.config_name):
            return None
        enough = _ENOUGH * data.minibatch_size
        if len(list(islice(source_of(path, reading).rows(), enough))) == enough:
            return None
        # The notes are about other numbers of processes.
        with collected():
            module = instantiate(data, renderer=load_renderer(config))
            module.setup("fit")
        return len(module.train_rows)
    except UserError:
        return None
