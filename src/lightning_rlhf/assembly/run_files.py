"""Reads what a run has left in its folder as data: it may come from anybody, so nothing that it names is run.

What users write on their own command line, or into files that `--config-dir` names, may name anything.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.errors import UserError, raise_problems

_TARGETS = {
    "model": "lightning_rlhf.models.source.ModelSource",
    "model.adapter": "lightning_rlhf.models.adapters.lora.Lora",
}
"""What may be built of a found configuration, by its place: all that `export` builds."""
_CALLS = {"_partial_", "_args_", "_recursive_"}
_SECTIONS = ("model", "data")


def read_settings(file: Path, *, trust_remote_code: bool = False) -> DictConfig:
    """The settings of a stage, of which `model` may be instantiated.

    Args:
        file: `config.yaml` in the folder of a stage.
        trust_remote_code: Whether the model may bring Python code of its own, if it says that it does.

    Raises:
        UserError: If it is no such file, or names something that would be run.
    """
    try:
        config = OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    plain: Any = OmegaConf.to_container(config, resolve=False)
    if not isinstance(plain, dict) or any(not isinstance(plain.get(name), dict) for name in _SECTIONS):
        raise UserError(f"{file}: not the settings of a stage: it needs {' and '.join(_SECTIONS)}")
    raise_problems(f"{file}: {problem}" for problem in _problems(plain))
    try:
        check_targets({"model": plain["model"]})
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if plain["model"].get("trust_remote_code") and not trust_remote_code:
        raise UserError(
            f"{file}: model.trust_remote_code=true: the model of this run brings Python code of its own; if you trust "
            f"{plain['model'].get('pretrained')}, add trust_remote_code=true"
        )
    template = plain["data"].get("template")
    if not isinstance(template, str | None):
        raise UserError(f"{file}: data.template={template}: expected a text or null")
    assert isinstance(config, DictConfig)
    return config


def read_record(file: Path) -> dict[str, Any]:
    """What a run has left for scripts.

    Args:
        file: `result.json`.

    Raises:
        UserError: If it is no such file.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{file}: not the result of a run")
    return record


def _problems(config: dict[str, Any]) -> Iterator[str]:
    """What would be run, or computed, if these settings were used."""
    for place, node in _nodes(config, ""):
        if isinstance(node, str) and "${" in node:
            yield f"{place}={node}: an interpolation, and a run leaves none in its settings"
    for place, node in _nodes(config["model"], "model"):
        if not isinstance(node, dict):
            continue
        expected = _TARGETS.get(place)
        if node.get("_target_") != expected:
            what = f"expected {expected}" if expected else "nothing is built here"
            yield f"{place}._target_={node.get('_target_', 'null')}: {what}"
        yield from (f"{place}.{name}: a run leaves no such setting" for name in _CALLS & node.keys())


def _nodes(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """All parts of a configuration by their places, itself first."""
    yield place, node
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{place}[{index}]")
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _nodes(child, f"{place}.{name}" if place else str(name))
