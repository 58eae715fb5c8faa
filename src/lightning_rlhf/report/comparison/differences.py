"""The settings in which runs differ."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lightning_rlhf.report.run import Run

# Where a run writes, and what it goes on from, are no settings of the training.
_NOT_SETTINGS = ("run_dir", "resume", "dry_run", "hydra")
ABSENT = "–"
"""Stands for a setting that a run does not have."""


def settings_of(run: Run) -> dict[str, str]:
    """All settings of a run, by their dotted names.

    They are the composed configuration as Hydra has written it, in which values that follow from others are not
    repeated. Without it, they are the settings of each stage, in which the folder of the run is left out.
    """
    if run.config is not None:
        try:
            composed = yaml.safe_load(run.config)
        except yaml.YAMLError:
            composed = None
        if isinstance(composed, dict):
            return _kept(composed)
    prefix = f"{run.folder.resolve()}/"
    return {name: text.replace(prefix, "") for stage in run.stages for name, text in _kept(stage.settings).items()}


def differences(runs: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The settings that not all runs have alike, with the value of each run.

    Args:
        runs: The settings of each run.
    """
    names = sorted({name for settings in runs for name in settings})
    values = {name: tuple(settings.get(name, ABSENT) for settings in runs) for name in names}
    return {name: column for name, column in values.items() if len(set(column)) > 1}


def number_in(value: str | float | None) -> float | None:
    """The finite number that a setting or a metric is; None if it is none."""
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted names that tell them apart, such as `lr` for `ppo.module.lr`."""
    parts = {name: name.split(".") for name in names}
    labels = {}
    for name, own in parts.items():
        ends = (".".join(own[-count:]) for count in range(1, len(own) + 1))
        labels[name] = next(
            end for end in ends if sum(other == end or other.endswith(f".{end}") for other in names) == 1 or end == name
        )
    return labels


def _kept(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: _text(value) for name, value in _flat(settings).items() if name.partition(".")[0] not in _NOT_SETTINGS
    }


def _flat(node: object, path: str = "") -> dict[str, object]:
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    leaves: dict[str, object] = {}
    for key, child in node.items():
        leaves |= _flat(child, f"{path}.{key}" if path else str(key))
    return leaves


def _text(value: object) -> str:
    """A value as a user would write it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
