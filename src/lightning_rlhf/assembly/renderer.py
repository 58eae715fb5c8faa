"""Loads the renderer of a run."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.source import ModelSource


def load_renderer(config: DictConfig) -> Renderer:
    """Loads the renderer, which turns conversations into tokens for all stages.

    Raises:
        UserError: If `model` has settings that do not exist, or the tokenizer cannot be found.
    """
    check_targets({"model": dict(config.model)})
    source: ModelSource = instantiate(config.model, _convert_="all")
    return Renderer(source.load_tokenizer(), config.data.template, stop_ids=source.stop_ids())
