"""Reads the folder of a run, whether it has finished or not."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_rlhf.errors import UserError
from lightning_rlhf.report.logs import number, read_samples, read_series
from lightning_rlhf.report.run import UNKNOWN, Result, Run, Series, Stage
from lightning_rlhf.stages import STAGES
from lightning_rlhf.yaml_files import read_yaml


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
        folder=run_dir,
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
    series = read_series(folder / "metrics.csv", f"{label}metrics.csv", notices)
    return Stage(
        name=name or result.stage or _guess_stage(series),
        folder=folder,
        result=result,
        series=series,
        samples=read_samples(folder / "samples.jsonl", f"{label}samples.jsonl", notices),
        settings=_read_settings(folder / "config.yaml", f"{label}config.yaml", notices),
        plan=_read_json(folder / "plan.json", notices),
    )


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
    metrics = {name: value for name, cell in _dict(raw, "metrics").items() if (value := _metric(cell)) is not None}
    notices += [f"{label}: {name} is {value}." for name, value in metrics.items() if not math.isfinite(value)]
    return Result(
        stage=raw.get("stage"),
        status=str(raw.get("status") or "unfinished"),
        metrics=metrics,
        model_dir=raw.get("model_dir"),
        seconds=number(raw.get("seconds")),
        peak_bytes=number(raw.get("peak_bytes")),
        peak_of=raw.get("peak_of"),
        seed=raw.get("seed"),
        versions={str(name): str(version) for name, version in _dict(raw, "versions").items()},
        alarms=tuple(raw["alarms"]) if "alarms" in raw else None,
        checks=tuple(check for check in raw.get("checks") or () if isinstance(check, dict)),
        stopped_by=raw.get("stopped_by"),
        resumed="resumed_from" in raw,
        rows=_counts(_dict(raw, "rows")),
        minibatch_size=_count(raw.get("minibatch_size")),
        accumulate_grad_batches=_count(raw.get("accumulate_grad_batches")),
        parameters={str(role): _counts(sizes) for role, sizes in _dict(raw, "parameters").items()},
        hardware=_dict(raw, "hardware"),
        git={str(name): str(commit) for name, commit in _dict(raw, "git").items()},
        weights=(raw.get("best") or {}).get("about"),
    )


def _dict(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _counts(raw: object) -> dict[str, int]:
    return {str(name): value for name, value in raw.items() if type(value) is int} if isinstance(raw, dict) else {}


def _count(raw: object) -> int | None:
    return raw if type(raw) is int else None


def _metric(cell: object) -> float | None:
    """A metric of `result.json`. JSON has no NaN and no infinity, so null stands for a value that is not finite."""
    return math.nan if cell is None else number(cell)


def _read_settings(path: Path, label: str, notices: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = OmegaConf.to_container(read_yaml(path), resolve=False)
    except UserError:
        notices.append(f"{label} is not YAML and was ignored.")
        return {}
    return {str(name): value for name, value in settings.items()} if isinstance(settings, dict) else {}


def _read_overrides(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    # Interpolations stay unresolved, because they belong on the command line as they are.
    overrides = OmegaConf.to_container(read_yaml(path), resolve=False)
    return tuple(str(item) for item in overrides) if isinstance(overrides, list) else ()
