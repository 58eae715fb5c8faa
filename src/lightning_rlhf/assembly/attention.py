"""Chooses the implementation of attention for a run whose settings name none."""

import logging

from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.plan_job import plans_for_gpus
from lightning_rlhf.models.attention import chosen_attention, flash_is_installed
from lightning_rlhf.models.source import ModelSource

log = logging.getLogger(__name__)


def attention_of(config: DictConfig, block: DictConfig) -> str | None:
    """Returns `model.attn_implementation`, or what is best if it is null.

    Args:
        config: The configuration of the stage.
        block: The block of the stage, whose `trainer` overrules that of the configuration.
    """
    model = config.model
    given: str | None = model.attn_implementation
    # Compiled code cannot look at positions, in which flash attention finds the rows of a line.
    if given is not None or model.compile or not plans_for_gpus(config.trainer):
        return given
    source: ModelSource = instantiate(model, _convert_="all")
    precision = str(block.trainer.get("precision", config.trainer.precision))
    chosen = chosen_attention(source.hf_config(), precision, on_cuda=True, installed=flash_is_installed())
    if chosen is not None:
        log.info("model.attn_implementation=%s, because flash-attn is installed", chosen)
    return chosen
