"""Reads the files in the folder of a run without running any code that they name, because they need not be trusted.

Overrides on the command line are the user's own and may name any code; `named_code` checks files of a configuration.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.yaml_files import read_yaml

_TARGETS = {
    "model": "lightning_rlhf.models.source.ModelSource",
    "model.adapter": "lightning_rlhf.models.adapters.lora.Lora",
}
"""The targets that a found configuration may name, by their place: those that `export` builds."""
_CALLS = {"_partial_", "_args_", "_recursive_"}
_RESULT = {"stage": str, "status": str, "metrics": dict, "model_dir": str, "seconds": int | float}
"""The types of what programs read from the result of a run."""
_SECTIONS = ("model", "data")
# `module:name`, which is imported; not a URL, and not a time such as 00:12:00:00.
_IMPORTED = re.compile(r"\s*[^\W\d][\w.]*:(?!//)")
# Lightning's own strategies and plugins, which these name, read pickles in checkpoints.
_OF_LIGHTNING = re.compile(r"(.+\.)?trainer\.(strategy|plugins)")


def read_settings(file: Path, *, trust_remote_code: bool = False) -> DictConfig:
    """Reads the settings of a stage. The caller may instantiate `model`.

    Args:
        file: `config.yaml` in the folder of a stage.
        trust_remote_code: Whether to accept a model whose settings say that it brings its own Python code.

    Raises:
        UserError: If the file does not hold the settings of a stage, or names code that would be run.
    """
    config = read_yaml(file)
    plain = cast(object, OmegaConf.to_container(config, resolve=False))
    if not isinstance(plain, dict) or any(not isinstance(plain.get(name), dict) for name in _SECTIONS):
        raise UserError(f"{file}: not the settings of a stage: it needs {' and '.join(_SECTIONS)}")
    raise_problems(f"{file}: {problem}" for problem in _problems(plain))
    try:
        check_targets({"model": plain["model"]})
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if plain["model"].get("trust_remote_code") and not trust_remote_code:
        raise UserError(
            f"{file}: model.trust_remote_code=true: the model of this run brings its own Python code; if you trust "
            f"{plain['model'].get('pretrained')}, add trust_remote_code=true"
        )
    template = plain["data"].get("template")
    if not isinstance(template, str | None):
        raise UserError(f"{file}: data.template={template}: expected a text or null")
    assert isinstance(config, DictConfig)
    return config


def read_overrides(file: Path) -> list[Override]:
    """Reads the overrides that a run was started with. The caller decides about those that `code_in` finds.

    Args:
        file: `overrides.yaml` in the folder that Hydra writes into that of a run.

    Raises:
        UserError: If the file does not hold the overrides of a single run.
    """
    words = cast(object, OmegaConf.to_container(read_yaml(file), resolve=False))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{file}: not the overrides of a run")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UserError(f"{file}: not the overrides of a run: {' '.join(str(error).split())}") from error
    for override in overrides:
        if override.is_hydra_override() or override.is_sweep_override():
            raise UserError(f"{file}: {override.input_line}: a run leaves no such override")
    return overrides


def code_in(override: Override) -> bool:
    """Whether an override could make a run call code that it names, or read something outside of the configuration.

    All classes in the configuration come from its own files, as long as no override names one. What remains are texts
    that name a function or a module, interpolations, files in other folders as options of a group, code that belongs
    to a model, and strategies that read pickles.
    """
    key = override.key_or_group
    if any(part.startswith("_") for part in key.split(".")) or key.endswith("trust_remote_code"):
        return True
    if _OF_LIGHTNING.fullmatch(key) or (override.package or "").startswith("hydra"):
        return True
    texts = [text for _, node in _nodes(override.value(), key) for text in _texts(node)]
    chooses = "." not in key
    return any(
        "${" in text or text.startswith("_") or (chooses and ".." in text) or _IMPORTED.match(text) for text in texts
    )


def _texts(node: object) -> list[str]:
    """The text of a node, or its keys."""
    if isinstance(node, dict):
        return [str(key) for key in node]
    return [node] if isinstance(node, str) else []


def read_record(file: Path) -> dict[str, object]:
    """Reads the result of a run.

    Args:
        file: `result.json` in the folder of a run.

    Raises:
        UserError: If the file does not hold the result of a run.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON: {error}") from error
    stages = record.get("stages", {}) if isinstance(record, dict) else None
    if not isinstance(stages, dict) or not all(_is_result(part) for part in (record, *stages.values())):
        raise UserError(f"{file}: not the result of a run")
    return cast(dict[str, object], record)


def _is_result(part: object) -> bool:
    """Whether a value can be the result of a stage or of a pipeline; each key may be missing."""
    return isinstance(part, dict) and all(
        part.get(key) is None or isinstance(part[key], kind) for key, kind in _RESULT.items()
    )


def overrides_of(job: Path) -> list[str]:
    """The overrides of a job of a sweep, as Hydra has written them into its folder; empty if it has not."""
    given = job / ".hydra" / "overrides.yaml"
    # Interpolations such as ${oc.env:KEY} stay unresolved, because their values may be secret.
    listed = OmegaConf.to_container(read_yaml(given), resolve=False) if given.is_file() else []
    return [str(override) for override in listed] if isinstance(listed, list) else []


def is_job_of_sweep(folder: Path) -> bool:
    """Whether Hydra runs a job of a sweep in this folder."""
    file = folder / ".hydra" / "hydra.yaml"
    return file.is_file() and OmegaConf.select(read_yaml(file), "hydra.mode") == "MULTIRUN"


def _problems(config: dict[str, Any]) -> Iterator[str]:
    """Names everything in the settings that would be run or computed if they were used."""
    for place, node in _nodes(config, ""):
        if isinstance(node, str) and "${" in node:
            yield f"{place}={node}: this is an interpolation, but a run leaves none in its settings"
    for place, node in _nodes(config["model"], "model"):
        if not isinstance(node, dict):
            continue
        expected = _TARGETS.get(place)
        if node.get("_target_") != expected:
            what = f"expected {expected}" if expected else "nothing is built here"
            yield f"{place}._target_={node.get('_target_', 'null')}: {what}"
        yield from (f"{place}.{name}: a run leaves no such setting" for name in _CALLS & node.keys())


def _nodes(node: object, place: str) -> Iterator[tuple[str, object]]:
    """All nodes of a configuration with their places, starting with itself."""
    yield place, node
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{place}[{index}]")
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _nodes(child, f"{place}.{name}" if place else str(name))
