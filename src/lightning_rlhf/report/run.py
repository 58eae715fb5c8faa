"""What a run folder holds, as plain values that the run card shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from lightning_rlhf.stages import STAGES, StageRecord

UNKNOWN = StageRecord(name="run", title="Run", nets={}, reads="prompts", exported="", in_terminal=(), headline=())
"""The record for a run whose stage is not known."""


@dataclass(frozen=True)
class Series:
    """One logged metric: `y[i]` at `x[i]`, x ascending, both float64 [points]; NaN for a value that is not finite."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def last(self) -> float | None:
        """The last finite value, or None."""
        finite = self.y[np.isfinite(self.y)]
        return float(finite[-1]) if finite.size else None


@dataclass(frozen=True)
class Sample:
    """One generated answer. `length` is in tokens and `kl` in nats per response; both are None if they are not known.

    `row` is the index of the prompt in the held-out data, and None for a rollout.
    """

    iteration: int
    phase: str
    row: int | None
    prompt: str
    response: str
    score: float | None
    kl: float | None
    length: float | None
    gold: float | None
    finish_reason: str


@dataclass(frozen=True)
class Result:
    """The content of `result.json`. `status` is `unfinished` if the file does not exist.

    Each of the `alarms` has `name`, `iteration`, `step`, `message` and `remedy`. They are None if no callback watched
    the health of the run.
    """

    stage: str | None
    status: str
    metrics: Mapping[str, float]
    model_dir: str | None
    seconds: float | None
    peak_bytes: float | None
    peak_of: str | None
    """`tensors` or `whole process`."""
    seed: int | None
    versions: Mapping[str, str]
    alarms: tuple[Mapping[str, object], ...] | None
    stopped_by: str | None
    weights: str | None
    """Which weights are in which folder, if the run kept the best ones beside the last."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its result, its metrics over time by name, and its samples."""

    name: str
    result: Result
    series: Mapping[str, Series]
    samples: tuple[Sample, ...]
    planned_bytes: float | None = None
    """The peak on each device that was planned before the run."""

    @property
    def record(self) -> StageRecord:
        """The record of the stage."""
        return STAGES.get(self.name, UNKNOWN)


@dataclass(frozen=True)
class Run:
    """All that a run folder holds. `last_change` is the time at which its newest result or metric was written."""

    name: str
    result: Result
    stages: tuple[Stage, ...]
    config: str | None
    overrides: tuple[str, ...] | None
    last_change: datetime | None
    notices: tuple[str, ...]
