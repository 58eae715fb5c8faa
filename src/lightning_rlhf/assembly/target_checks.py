"""Checks a configuration against the signatures of its targets, before anything is built."""

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.named_code import check_definition
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
    raise_problems(_problems(config, "", _mismatches))


def check_names(config: object) -> None:
    """Checks that each target has parameters of the names that its node sets. The values may be interpolations.

    Args:
        config: A configuration as plain dicts and lists, resolved or not.

    Raises:
        UserError: If a target has no parameter of a name. The message names all.
    """
    raise_problems(_problems(config, "", _unknown_names))


def of_stage(config: DictConfig, block: str, *, resolve: bool) -> dict[str, object]:
    """The parts of a configuration that a stage builds, for `check_targets` or `check_names`.

    The settings of the trainer in the block of the stage get the target of the trainer, to which they are added.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))
    own = {"_target_": plain["trainer"]["_target_"], **plain[block]["trainer"]}
    parts = {name: plain[name] for name in ("model", "data", "trainer", "logger", "callbacks")}
    return {**parts, block: {**plain[block], "trainer": own}}


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


def _problems(node: object, path: str, of_node: Callable[[dict[str, object], str], Iterator[str]]) -> Iterator[str]:
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _problems(child, f"{path}[{index}]", of_node)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield from of_node(node, path)
    for name, child in node.items():
        yield from _problems(child, f"{path}.{name}" if path else str(name), of_node)


def _unknown_names(node: dict[str, object], path: str) -> Iterator[str]:
    """Settings that are not parameters of their target."""
    parameters = inspect.signature(_target(node)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in (name for name in node if name not in _KNOWN_BY_HYDRA and name not in parameters):
        close = difflib.get_close_matches(name, parameters, n=1)
        has = f"did you mean {close[0]}?" if close else f"it has {', '.join(parameters)}"
        yield f"{path}.{name}: {node['_target_']} has no such setting; {has}".lstrip(".")


def _mismatches(node: dict[str, object], path: str) -> Iterator[str]:
    """Settings that are not parameters of their target, or have a value of another type."""
    yield from _unknown_names(node, path)
    target = _target(node)
    hints = annotations(target)
    parameters = inspect.signature(target).parameters
    for name, value in node.items():
        if name in parameters and not isinstance(value, dict | list) and not fits(value, hints.get(name, object)):
            yield f"{path}.{name}={value}: expected {in_words(hints[name])}".lstrip(".")


def _target(node: dict[str, object]) -> Callable[..., object]:
    name = str(node["_target_"])
    target: Callable[..., object] = get_object(name)
    check_definition(name, target)
    return target
