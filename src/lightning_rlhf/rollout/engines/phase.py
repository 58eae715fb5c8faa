"""Lets a module's engine sample: wakes it, gives it the current weights, and enters a `rollout_phase`."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from torch import nn

from lightning_rlhf.distributed.phases import named_weights, rollout_phase
from lightning_rlhf.rollout.engines.engine import BuildEngine, RolloutEngine


class EngineHandle:
    """The engine of a module, which is built when it is first needed, and holds its memory only while it samples.

    Another trainer gets a new engine, because it counts its steps from the beginning.
    """

    def __init__(self, build: BuildEngine) -> None:
        """Stores the function that builds the engine."""
        self.build = build
        self._engine: RolloutEngine | None = None
        self._built_for: tuple[Trainer, nn.Module] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leaves the engine out: a copy, in this process or another, builds an engine of its own."""
        return {"build": self.build, "_engine": None, "_built_for": None}

    @contextmanager
    def phase(self, trainer: Trainer, *nets: nn.Module, generator: nn.Module) -> Iterator[RolloutEngine]:
        """Context for sampling and scoring (see `rollout_phase`) that gives the engine, with the current weights.

        Args:
            trainer: Counts the optimizer steps; a resumed run continues the count.
            *nets: The modules that contain all models that the phase calls.
            generator: The model that samples.
        """
        if self._engine is None or self._built_for != (trainer, generator):
            # The old engine leaves its memory before the new one takes some.
            self._engine, self._built_for = None, (trainer, generator)
            self._engine = self.build(generator, trainer.strategy.root_device)
        engine = self._engine
        engine.resume()
        try:
            if engine.weights_version != trainer.global_step:
                engine.update_weights(named_weights(trainer, generator), trainer.global_step)
            with rollout_phase(trainer, *nets, generator=generator if engine.shares_weights else None):
                yield engine
        finally:
            engine.release()
