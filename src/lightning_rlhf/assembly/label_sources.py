"""Lets models answer the prompts that people are asked about: given models, or the newest weights of a run."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_rlhf.assembly.newest_export import Found, as_model, check_run, name_of, newest
from lightning_rlhf.data.formats import Record
from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.speaker import load_speaker
from lightning_rlhf.web.label.desk import Desk
from lightning_rlhf.web.label.sampling import Sampler, Writer
from lightning_rlhf.web.label.supply import Supply

log = logging.getLogger(__name__)

Writers = Callable[[], Sequence[Writer]]
"""Returns the models that answer next, one for each answer of an item."""


def sample_items(
    desk: Desk,
    supply: Supply,
    writers: Writers,
    records: Sequence[Record],
    origin: str,
    sampling: Sampling,
    *,
    max_prompt_length: int,
    ahead: int,
) -> None:
    """Lets models answer prompts in the background, and asks people about the answers.

    Args:
        desk: Receives the items.
        supply: Makes the items.
        writers: The models.
        records: The prompts.
        origin: Describes the models; see `Sampler`.
        sampling: Settings of the sampling distribution.
        max_prompt_length: Longer prompts are left out; in tokens.
        ahead: Number of items that are made before anybody is asked about them.
    """
    sampler = Sampler(
        writers,
        records,
        origin=origin,
        sampling=sampling,
        max_prompt_length=max_prompt_length,
        seed=desk.seed,
        is_known=desk.book.items.__contains__,
        stop=supply.stop,
    )
    supply.start(sampler.items(), desk.add, lambda: desk.num_open() >= ahead, sampler.remaining)


def writers_of(
    models: dict[str, str], run: str | None, num_samples: int, dtype: str, template: str | None, out: Path
) -> Writers:
    """Loads the models that answer.

    Args:
        models: Folders or hub names by the settings that name them; not used with `run`.
        run: Folder of a run, whose newest weights answer.
        num_samples: Number of answers of each model to a prompt.
        dtype: The dtype of the weights.
        template: Chat template, as `Renderer` takes it.
        out: File of the labels, beside which a checkpoint is exported.

    Raises:
        UserError: If a model cannot be loaded, or the run has left no weights yet.
    """
    if run is not None:
        return _of_run(run, num_samples, dtype, template, out.with_suffix(".model"))
    loaded = [_load(where, setting, dtype, template, where) for setting, where in models.items()]
    writers = [writer for writer in loaded for _ in range(num_samples)]
    return lambda: writers


def _of_run(run: str, num_samples: int, dtype: str, template: str | None, folder: Path) -> Writers:
    """Loads the newest weights of a run, and newer ones as soon as the run has written them."""
    place = check_run(run)
    known: Found | None = None
    writers: list[Writer] = []

    def refreshed() -> Sequence[Writer]:
        nonlocal known, writers
        try:
            found = newest(place)
            if found != known:
                model = as_model(found, folder)
                writers = [_load(str(model), "run", dtype, template, name_of(found))] * num_samples
                known = found
                print(f"answers come from {name_of(found)}", flush=True)
        except (UserError, OSError, RuntimeError) as error:
            # The run may be writing its checkpoint at this moment.
            if not writers:
                raise
            log.warning("answers still come from %s: the newest weights cannot be read: %s", writers[0].name, error)
        return writers

    refreshed()
    return refreshed


def _load(where: str, setting: str, dtype: str, template: str | None, name: str) -> Writer:
    speaker = load_speaker(where, setting, dtype=dtype, template=template)
    return Writer(speaker.engine, speaker.renderer, name)
