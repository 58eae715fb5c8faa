"""Reads a run folder, finished or not, into plain values that the run card shows."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES, StageRecord

_UNKNOWN = StageRecord(name="run", title="Run", nets={}, reads="prompts", exported="", in_terminal=(), headline=())
"""Of a run that does not say which stage it is of."""


@dataclass(frozen=True)
class Series:
    """One logged metric: `y[i]` at `x[i]`, x ascending, both float64 [points]; NaN where a value was not finite."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def last(self) -> float | None:
        """The last finite value, or None."""
        finite = self.y[np.isfinite(self.y)]
        return float(finite[-1]) if finite.size else None


@dataclass(frozen=True)
class Sample:
    """One generated answer; `length` is in tokens, `kl` in nats a response; None where it was not written.

    `row` is the place of the prompt in the held-out data, and None for a rollout.
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
    """What `result.json` says; `status` is `unfinished` where there is no such file.

    `alarms` have `name`, `iteration`, `step`, `message` and `remedy`, and are None where nothing watched.
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
    alarms: tuple[Mapping[str, Any], ...] | None
    stopped_by: str | None


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its result, its metrics over time by name, and its samples."""

    name: str
    result: Result
    series: Mapping[str, Series]
    samples: tuple[Sample, ...]
    planned_bytes: float | None = None
    """The peak of each device by the plan, before the run."""

    @property
    def record(self) -> StageRecord:
        """What the stage is."""
        return STAGES.get(self.name, _UNKNOWN)


@dataclass(frozen=True)
class Run:
    """All that a run folder holds; `last_change` is when its newest result or metric was written."""

    name: str
    result: Result
    stages: tuple[Stage, ...]
    config: str | None
    overrides: tuple[str, ...] | None
    last_change: datetime | None
    notices: tuple[str, ...]


def read_run(run_dir: Path) -> Run:
    """Reads whatever a run folder holds; what is missing is None or empty, what is broken becomes a notice.

    Args:
        run_dir: Folder of one stage, or of a pipeline with a folder for each stage.

    Raises:
        UserError: If the folder does not exist.
    """
    if not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is not a folder: give the output folder of a run")
    notices: list[str] = []
    raw = _read_json(run_dir / "result.json", notices)
    result = _result(raw, "result.json", notices)
    inner = raw.get("stages") or {}
    folders = {name: folder for name in STAGES if (folder := _stage_folder(run_dir, name, inner)) is not None}
    if result.stage == "pipeline" or (result.stage is None and folders):
        stages = tuple(
            _read_stage(folders.get(name, run_dir / name), name, inner.get(name, {}), notices)
            for name in STAGES
            if name in folders or name in inner
        )
    else:
        stages = (_read_stage(run_dir, None, raw, notices),)
    config = run_dir / ".hydra" / "config.yaml"
    return Run(
        name=run_dir.resolve().name,
        result=result,
        stages=stages,
        config=config.read_text("utf-8", "replace") if config.is_file() else None,
        overrides=_read_overrides(run_dir / ".hydra" / "overrides.yaml"),
        last_change=_last_change([run_dir, *folders.values()]),
        notices=tuple(dict.fromkeys(notices)),
    )


def _stage_folder(run_dir: Path, name: str, inner: Mapping[str, Any]) -> Path | None:
    """Where a stage has written; one that finished before its pipeline was resumed elsewhere is beside its model."""
    if (run_dir / name).is_dir():
        return run_dir / name
    model_dir = (inner.get(name) or {}).get("model_dir")
    return Path(model_dir).parent if model_dir and Path(model_dir).parent.is_dir() else None


def _last_change(folders: Iterable[Path]) -> datetime | None:
    paths = [folder / name for folder in folders for name in ("result.json", "metrics.csv")]
    times = [path.stat().st_mtime for path in paths if path.is_file()]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _read_stage(folder: Path, name: str | None, fallback: dict[str, Any], notices: list[str]) -> Stage:
    label = f"{name}/" if name else ""
    raw = (_read_json(folder / "result.json", notices) if name else fallback) or fallback
    result = _result(raw, f"{label}result.json", notices)
    series = _read_series(folder / "metrics.csv", f"{label}metrics.csv", notices)
    samples = _read_samples(folder / "samples.jsonl", f"{label}samples.jsonl", notices)
    planned = _number(_read_json(folder / "plan.json", notices).get("peak_bytes_per_device"))
    return Stage(name or result.stage or _guess_stage(series), result, series, samples, planned)


def _guess_stage(series: Mapping[str, Series]) -> str:
    for record in reversed(list(STAGES.values())):
        if any(name.startswith(record.logs) for name in series):
            return record.name
    return next(iter(STAGES)) if series else _UNKNOWN.name


def _read_json(path: Path, notices: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8", "replace"))
    except json.JSONDecodeError as error:
        notices.append(f"{path.name} of {path.parent.name} is not JSON (line {error.lineno}) and is left out.")
        return {}
    return value if isinstance(value, dict) else {}


def _result(raw: Mapping[str, Any], label: str, notices: list[str]) -> Result:
    metrics = {name: value for name, cell in (raw.get("metrics") or {}).items() if (value := _number(cell)) is not None}
    notices += [f"{label}: {name} is {value}." for name, value in metrics.items() if not math.isfinite(value)]
    return Result(
        stage=raw.get("stage"),
        status=str(raw.get("status") or "unfinished"),
        metrics=metrics,
        model_dir=raw.get("model_dir"),
        seconds=_number(raw.get("seconds")),
        peak_bytes=_number(raw.get("peak_bytes")),
        peak_of=raw.get("peak_of"),
        seed=raw.get("seed"),
        versions={str(name): str(version) for name, version in (raw.get("versions") or {}).items()},
        alarms=tuple(raw["alarms"]) if "alarms" in raw else None,
        stopped_by=raw.get("stopped_by"),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read_series(path: Path, label: str, notices: list[str]) -> dict[str, Series]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file, restkey="", restval=""))
    by_iteration = bool(rows) and any(name.startswith("rollout/") for name in rows[0])
    points: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        epoch, step = _cell(row.get("epoch")), _cell(row.get("step"))
        for name, text in row.items():
            value = _cell(text)
            if name not in ("", "epoch", "step") and value is not None:
                # A resumed run logs some positions twice: the later value is of the run that went on.
                points[name][_position(name, epoch, step, by_iteration)] = value
    series = {}
    for name, values in points.items():
        x = np.array(sorted(values), dtype=np.float64)
        y = np.array([values[position] for position in x.tolist()], dtype=np.float64)
        if bad := int(np.sum(~np.isfinite(y))):
            notices.append(f"{label}: {bad} of {len(y)} values of {name} are NaN or infinite: gaps in the plot.")
        series[name] = Series(x, np.where(np.isfinite(y), y, np.nan))
    return series


def _cell(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _position(name: str, epoch: float | None, step: float | None, by_iteration: bool) -> float:
    """Where a value lies on the x axis: steps, or for PPO iterations, counted so that 0 is before training."""
    if not by_iteration or epoch is None:
        return step or 0.0
    before_training = name.startswith("val/") and epoch == 0 and step == 0
    return 0.0 if before_training else epoch + 1


def _read_samples(path: Path, label: str, notices: list[str]) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    samples, broken = [], 0
    # Not splitlines, which also splits at separators such as U+2028 that an answer may hold.
    for line in filter(str.strip, path.read_text("utf-8", "replace").split("\n")):
        try:
            row = json.loads(line)
            samples.append(
                Sample(
                    iteration=int(row["iteration"]),
                    phase=str(row["phase"]),
                    row=None if row.get("row") is None else int(row["row"]),
                    prompt=str(row["prompt"]),
                    response=str(row["response"]),
                    score=_number(row.get("score")),
                    kl=_number(row.get("kl")),
                    length=_number(row.get("length")),
                    gold=_number(row.get("gold")),
                    finish_reason=str(row.get("finish_reason") or ""),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
    if broken:
        notices.append(f"{label}: {broken} of {broken + len(samples)} lines could not be read; they are left out.")
    return tuple(samples)


def _read_overrides(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    # Unresolved: an override may hold an interpolation, which belongs on the command line as it is.
    overrides = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return tuple(str(item) for item in overrides) if isinstance(overrides, list) else ()
