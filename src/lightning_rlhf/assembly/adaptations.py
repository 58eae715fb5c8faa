"""Gathers what the stages of a run adapt to their data, and says it in one warning."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_rlhf.data.adapting import collected
from lightning_rlhf.distributed.collectives import is_first_process

log = logging.getLogger(__name__)


class Adaptations:
    """The notes of all stages. Stages that read the same data often adapt in the same way."""

    def __init__(self) -> None:
        """Starts without notes."""
        self.stages: dict[str, list[str]] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Context in which notes are kept as those of a stage."""
        with collected() as notes:
            yield
        for note in notes:
            self.stages.setdefault(note, []).append(stage)

    def lines(self) -> list[str]:
        """One line for each note, with the stages that it is about."""
        return [f"{', '.join(stages)}: {note}" for note, stages in self.stages.items()]

    def warn(self) -> None:
        """Logs all notes as one warning."""
        if self.stages and is_first_process():
            log.warning("%s", "\n  ".join(["adapted to what there is:", *self.lines()]))
