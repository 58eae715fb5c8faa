"""Measures the phases of PPO iterations: sampling, scoring and update.

Sampling is the time within the engine, in which it wakes up, takes new weights, draws responses and falls asleep.
Scoring is the rest of a rollout: rewards, log-probs, values, credit, and gathering models that are sharded. The update
is the rest of an iteration. If an engine hands on finished responses while it still samples, what happens between two
of them is not sampling.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_rlhf.benchmark.gemm import wait
from lightning_rlhf.experience import Rollout
from lightning_rlhf.hooks import RLHFCallback
from lightning_rlhf.rollout.engines.engine import BuildEngine, Completion, Decode, Request, RolloutEngine
from lightning_rlhf.rollout.sampling import Sampling

Item = TypeVar("Item")


class Iteration(NamedTuple):
    """The measurements of one iteration."""

    seconds: dict[str, float]
    """Seconds by phase: `rollout`, `score` and `update`, which add up to the iteration."""
    prompts: list[int]
    """Number of prompt tokens of each row, over all processes."""
    responses: list[int]
    """Number of response tokens of each row, over all processes."""
    rescored: list[bool]
    """Whether the actor scored each row after the sampler, over all processes."""


class Stopwatch(RLHFCallback):
    """Measures each iteration on this process."""

    def __init__(self, entered: Callable[[str], None] = lambda phase: None) -> None:
        """Starts without iterations.

        Args:
            entered: Called with the name of a phase whenever the iteration enters it.
        """
        self.iterations: list[Iteration] = []
        self.sampling, self.entered = 0.0, entered

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an iteration."""
        wait(pl_module.device)
        self.sampling, self.start = 0.0, time.perf_counter()

    def on_rollout_end(self, trainer: Trainer, module: Any, rollout: Rollout) -> None:
        """Keeps what the FLOPs depend on, and ends scoring."""
        wait(module.device)
        self.rollout = time.perf_counter() - self.start
        sequences = rollout.experience.sequences
        responses = sequences.response_mask.sum(1)
        prompts = sequences.attention_mask.sum(1) - responses
        self.rows = prompts.tolist(), responses.tolist(), rollout.rescored.tolist()
        self.entered("update")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the iteration."""
        wait(pl_module.device)
        whole = time.perf_counter() - self.start
        seconds = {"rollout": self.sampling, "score": self.rollout - self.sampling, "update": whole - self.rollout}
        self.iterations.append(Iteration(seconds, *self.rows))

    def timed(self, build: BuildEngine) -> BuildEngine:
        """Wraps a function that builds an engine, so that the time within the engine is measured."""
        return lambda net, device: TimedEngine(net, device, build=build, clock=self)


class TimedEngine:
    """An engine whose calls are measured. Everything else is that of the engine itself."""

    def __init__(self, net: nn.Module, device: torch.device, *, build: BuildEngine, clock: Stopwatch) -> None:
        """Builds the engine.

        Args:
            net: The model that samples.
            device: The device of the process.
            build: Builds the engine.
            clock: Adds up the seconds.
        """
        self.engine: RolloutEngine = build(net, device)
        self.device, self.clock = device, clock

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the engine whose use is not measured."""
        return getattr(self.engine, name)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> list[Completion]:
        """See `RolloutEngine.generate`."""
        with self._measured():
            return self.engine.generate(requests, sampling, stop_ids=stop_ids, decode=decode)

    def iterate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        stop_ids: tuple[int, ...],
        decode: Decode | None = None,
    ) -> Iterator[Completion]:
        """See `RolloutEngine.iterate`."""
        yield from _each(self.engine.iterate(requests, sampling, stop_ids=stop_ids, decode=decode), self._measured)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutEngine.update_weights`."""
        with self._measured():
            self.engine.update_weights(_each(iter(weights), self._excepted), version)

    def resume(self) -> None:
        """See `RolloutEngine.resume`."""
        with self._measured():
            self.engine.resume()

    def release(self) -> None:
        """See `RolloutEngine.release`."""
        with self._measured():
            self.engine.release()

    @contextmanager
    def _measured(self, sign: int = 1) -> Iterator[None]:
        inside, outside = ("rollout", "score")[::sign]
        self.clock.entered(inside)
        start = time.perf_counter()
        try:
            yield
        finally:
            wait(self.device)
            self.clock.sampling += sign * (time.perf_counter() - start)
            self.clock.entered(outside)

    @contextmanager
    def _excepted(self) -> Iterator[None]:
        """Takes off what others do while the engine is measured, such as gathering weights that are sharded."""
        wait(self.device)
        with self._measured(-1):
            yield


def _each(items: Iterator[Item], measured: Callable[[], Any]) -> Iterator[Item]:
    """Yields the items of an iterator, and measures how long it takes to make each of them."""
    end = object()
    while True:
        with measured():
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]
