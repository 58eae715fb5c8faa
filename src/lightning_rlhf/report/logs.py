"""Reads the logs of a stage: the metrics over time and the samples."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from lightning_rlhf.report.run import Sample, Series


def number(value: object) -> float | None:
    """Returns a value of a JSON file as a number, or None if it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_series(path: Path, label: str, notices: list[str]) -> dict[str, Series]:
    """Reads `metrics.csv`; empty if there is no file.

    Args:
        path: The file.
        label: Name of the file in notices.
        notices: Gets a notice about each metric with values that are not finite.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file, restkey="", restval=""))
    by_iteration = bool(rows) and any(name.startswith("rollout/") for name in rows[0])
    points: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        epoch, step = _cell(row.get("epoch")), _cell(row.get("step"))
        for name, text in row.items():
            value, position = _cell(text), _position(epoch, step, by_iteration)
            if name not in ("", "epoch", "step") and value is not None and position is not None:
                # A resumed run logs some positions twice. The later value belongs to the resumed run.
                points[name][position] = value
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


def _position(epoch: float | None, step: float | None, by_iteration: bool) -> float | None:
    """The number of optimizer steps or, for PPO, of iterations that led to a value. 0 is before training.

    A run logs under the number of the last epoch and of the last step, which count from 0. The metrics before training
    have epoch -1 (`modules.evaluation.log_evaluation`). The position is None if the row does not have the number.
    """
    if epoch == -1:
        return 0.0
    last = epoch if by_iteration else step
    return None if last is None else last + 1


def read_samples(path: Path, label: str, notices: list[str]) -> tuple[Sample, ...]:
    """Reads `samples.jsonl`; empty if there is no file.

    Args:
        path: The file.
        label: Name of the file in notices.
        notices: Gets a notice about lines that cannot be read.
    """
    if not path.is_file():
        return ()
    samples, broken = [], 0
    # `splitlines` would also split at separators such as U+2028, which an answer may contain.
    for line in filter(str.strip, path.read_text("utf-8", "replace").split("\n")):
        try:
            samples.append(_sample(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
    if broken:
        notices.append(f"{label}: {broken} of {broken + len(samples)} lines could not be read and were ignored.")
    return tuple(samples)


def _finite(value: object) -> float | None:
    """A number that means and intervals can contain, or None."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def _sample(row: dict[str, object]) -> Sample:
    prompt = str(row["prompt"])
    messages = row.get("messages") or [{"role": "user", "content": prompt}]
    score, kl, length, gold = (_finite(row.get(name)) for name in ("score", "kl", "length", "gold"))
    return Sample(
        iteration=int(str(row["iteration"])),
        phase=str(row["phase"]),
        row=None if row.get("row") is None else int(str(row["row"])),
        prompt=prompt,
        # A turn that calls a tool may have no content.
        messages=tuple((str(turn["role"]), str(turn.get("content") or "")) for turn in messages),  # type: ignore[attr-defined]
        response=str(row["response"]),
        score=score,
        kl=kl,
        length=length,
        gold=gold,
        gold_name=None if row.get("gold_name") is None else str(row["gold_name"]),
        finish_reason=str(row.get("finish_reason") or ""),
    )
