"""What a run folder holds, as plain values that the run card shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

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

    `messages` are role and text of each turn before the answer, and `prompt` is the text of the last one. `row` is the
    index of the prompt in the held-out data, and None for a rollout.
    """

    iteration: int
    phase: str
    row: int | None
    prompt: str
    messages: tuple[tuple[str, str], ...]
    response: str
    score: float | None
    kl: float | None
    length: float | None
    gold: float | None
    gold_name: str | None
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
    checks: tuple[Mapping[str, object], ...]
    """The checks at the start of the run, each with `check`, `status` (`ok` or `warning`) and `found`."""
    stopped_by: str | None
    resumed: bool
    """Whether the run continued from a checkpoint."""
    rows: Mapping[str, int]
    """The numbers of rows to train on (`train`), of held-out rows (`held out`) and of prompts to answer
    (`answered`)."""
    minibatch_size: int | None
    """The size that was used, which is smaller than the setting if there were too few rows for it."""
    accumulate_grad_batches: int | None
    """The number of parts of a minibatch, which is larger than the setting if a token budget or the memory asks for
    more."""
    parameters: Mapping[str, Mapping[str, int]]
    """For each model, by role, the numbers of its weights (`total`) and of those that are trained (`trained`)."""
    hardware: Mapping[str, object]
    """The `device` of the first process, and the numbers of `processes` and `machines`."""
    git: Mapping[str, str]
    """The commit of each repository that took part, by name."""
    weights: str | None
    """Which weights are in which folder, if the run kept the best ones beside the last."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its result, its metrics over time by name, and its samples."""

    name: str
    folder: Path
    result: Result
    series: Mapping[str, Series]
    samples: tuple[Sample, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The configuration of the stage, `config.yaml`; empty if there is none."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """The memory that was planned before the run, `plan.json`; empty if there is none."""

    @property
    def planned_bytes(self) -> float | None:
        """The peak on each device that was planned before the run."""
        peak = self.plan.get("peak_bytes_per_device")
        return float(peak) if isinstance(peak, int | float) else None

    @property
    def record(self) -> StageRecord:
        """The record of the stage."""
        return STAGES.get(self.name, UNKNOWN)


@dataclass(frozen=True)
class Run:
    """All that a run folder holds. `last_change` is the time at which its newest result or metric was written."""

    folder: Path
    result: Result
    stages: tuple[Stage, ...]
    config: str | None
    overrides: tuple[str, ...] | None
    last_change: datetime | None
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the folder; the number of a run in a sweep follows the name of the sweep."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name.isdigit() else folder.name
