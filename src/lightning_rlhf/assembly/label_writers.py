"""Loads the models whose answers people compare."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lightning_rlhf.assembly.newest_export import Found, as_model, check_run, name_of, newest
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.web.label.sampling import Writer

log = logging.getLogger(__name__)

Writers = Callable[[], Sequence[Writer]]
"""Returns the models that answer next, one for each answer of an item."""


def load_writer(where: str, setting: str, dtype: str, template: str | None, name: str = "") -> Writer:
    """Loads a language model, on a GPU if there is one.

    Args:
        where: Folder or hub name of the model.
        setting: Name of the setting that says so, for messages.
        dtype: The dtype of its weights.
        template: Chat template, as `Renderer` takes it.
        name: Name of the model in the file of labels; `where` if empty.

    Raises:
        UserError: If the model cannot be loaded.
    """
    source = ModelSource(pretrained=where, dtype=dtype, setting=setting)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = load_causal_lm(source).to(device).eval()  # type: ignore[arg-type]  # The stubs of transformers know no device.
    renderer = Renderer(source.load_tokenizer(), template, stop_ids=source.stop_ids())
    return Writer(NativeEngine(net, device), renderer, name or where)


def of_models(models: dict[str, str], num_samples: int, dtype: str, template: str | None) -> Writers:
    """Loads models that stay as they are.

    Args:
        models: Folders or hub names by the settings that name them.
        num_samples: Number of answers of each model.
        dtype: The dtype of their weights.
        template: Chat template.
    """
    loaded = [load_writer(where, setting, dtype, template) for setting, where in models.items()]
    writers = [writer for writer in loaded for _ in range(num_samples)]
    return lambda: writers


def of_run(run: str, num_samples: int, dtype: str, template: str | None, folder: Path) -> Writers:
    """Loads the newest weights of a run, and newer ones as soon as the run has written them.

    Args:
        run: Folder of the run, which may still be training.
        num_samples: Number of answers to each prompt.
        dtype: The dtype of the weights.
        template: Chat template.
        folder: Where a checkpoint is exported to.

    Raises:
        UserError: If the run has left no weights yet.
    """
    place = check_run(run)
    known: Found | None = None
    writers: list[Writer] = []

    def refreshed() -> Sequence[Writer]:
        nonlocal known, writers
        try:
            found = newest(place)
            if found != known:
                model = as_model(found, folder)
                writers = [load_writer(str(model), "run", dtype, template, name_of(found))] * num_samples
                known = found
                log.info("answers come from %s", name_of(found))
        except (UserError, OSError, RuntimeError) as error:
            # The run may be writing its checkpoint at this moment.
            if not writers:
                raise
            log.warning("answers still come from %s: the newest weights cannot be read: %s", writers[0].name, error)
        return writers

    refreshed()
    return refreshed
