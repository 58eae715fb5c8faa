"""Turns the configuration of a command into dataclasses, and compares each value with the type of its field."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.errors import raise_problems
from lightning_rlhf.typechecks import annotations, fits, in_words

T = TypeVar("T")


def built(target: type[T], parts: Mapping[str, type], config: DictConfig) -> T:
    """Makes the settings of a command.

    Args:
        target: Dataclass with a field for each setting.
        parts: Dataclasses of those fields that contain settings themselves.
        config: The configuration of the command.

    Raises:
        UserError: If a setting is missing, unknown or of the wrong type. The message names all mistakes.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    own = {name: value for name, value in plain.items() if name not in parts}
    below = [text for name, part in parts.items() for text in _mistakes(part, plain[name], f"{name}.")]
    raise_problems([*_mistakes(target, own), *below])
    return target(**own, **{name: part(**plain[name]) for name, part in parts.items()})


def _mistakes(target: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    hints = annotations(target)
    for name, value in values.items():
        if name not in hints:
            yield f"{prefix}{name}={value}: there is no such setting; there are {', '.join(hints)}"
        elif not fits(value, hints[name]):
            yield f"{prefix}{name}={value}: expected {in_words(hints[name])}"
