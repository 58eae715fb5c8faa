"""Checks a configuration against the signatures of its targets, before anything is built."""

import inspect
from collections.abc import Iterator
from typing import Any, cast

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.errors import raise_problems
from lightning_rlhf.typechecks import annotations, fits, in_words

_KNOWN_BY_HYDRA = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


def check_targets(config: object) -> None:
    """Compares every node that has a `_target_` with the signature of that target.

    Args:
        config: A resolved configuration, as plain dicts and lists.

    Raises:
        UserError: If a target has no parameter of that name, or a value has the wrong type. The message names all
            mistakes.
    """
    raise_problems(_problems(config, ""))


def arguments(config: DictConfig, target: str) -> dict[str, Any]:
    """The settings of a command, checked as keyword arguments of the function that the command calls.

    Args:
        config: The configuration of the command.
        target: Dotted name of the function.

    Raises:
        UserError: If the function has no parameter of that name, or a value has the wrong type.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    check_targets({"_target_": target, **settings})
    return settings


def _problems(node: object, path: str) -> Iterator[str]:
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _problems(child, f"{path}[{index}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield from _mismatches(node, path)
    for name, child in node.items():
        yield from _problems(child, f"{path}.{name}" if path else str(name))


def _mismatches(node: dict[str, object], path: str) -> Iterator[str]:
    target = get_object(str(node["_target_"]))
    parameters = inspect.signature(target).parameters
    hints = annotations(target)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in node.items():
        setting = f"{path}.{name}" if path else name
        if name in _KNOWN_BY_HYDRA:
            continue
        if name not in parameters:
            if not takes_any:
                yield f"{setting}: {node['_target_']} has no such setting; it has {', '.join(parameters)}"
        elif not isinstance(value, dict | list) and not fits(value, hints.get(name, object)):
            yield f"{setting}={value}: expected {in_words(hints[name])}"
