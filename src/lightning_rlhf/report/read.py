"""Reads the folder of a run, whether it has finished or not."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lightning_rlhf.errors import UserError
from lightning_rlhf.report.run import UNKNOWN, Result, Run, Sample, Series, Stage
from lightning_rlhf.stages import STAGES


def read_run(run_dir: Path) -> Run:
    """Reads whatever a run folder holds. Missing values are None or empty, and damaged files give a notice.

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
    """The folder of a stage. If its pipeline was resumed into another folder, it is the one that holds its model."""
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
    return next(iter(STAGES)) if series else UNKNOWN.name


def _read_json(path: Path, notices: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8", "replace"))
    except json.JSONDecodeError as error:
        notices.append(f"{path.name} of {path.parent.name} is not JSON (line {error.lineno}) and was ignored.")
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
        weights=(raw.get("best") or {}).get("about"),
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
                # A resumed run logs some positions twice. The later value belongs to the resumed run.
                points[name][_position(name, epoch, step, by_iteration)] = value
    series = {}
    for name, values in points.items():
        x = np.array(sorted(values), dtype=np.float64)
        y = np.array([values[position] for position in x.tolist()], dtype=np.float64)
        if bad := int(np.sum(~np.isfinite(y))):
            notices.append(f"{label}: {bad} of {len(y)} values of {name} are NaN or infinite; the plot has gaps there.")
        series[name] = Series(x, np.where(np.isfinite(y), y, np.nan))
    return series


def _cell(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _position(name: str, epoch: float | None, step: float | None, by_iteration: bool) -> float:
    """The position of a value on the x axis, in steps or, for PPO, in iterations. 0 is before training."""
    if not by_iteration or epoch is None:
        return step or 0.0
    before_training = name.startswith("val/") and epoch == 0 and step == 0
    return 0.0 if before_training else epoch + 1


def _read_samples(path: Path, label: str, notices: list[str]) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    samples, broken = [], 0
    # `splitlines` would also split at separators such as U+2028, which an answer may contain.
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
        notices.append(f"{label}: {broken} of {broken + len(samples)} lines could not be read and were ignored.")
    return tuple(samples)


def _read_overrides(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    # Interpolations stay unresolved, because they belong on the command line as they are.
    overrides = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return tuple(str(item) for item in overrides) if isinstance(overrides, list) else ()
