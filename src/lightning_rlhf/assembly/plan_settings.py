"""What only a plan needs of its settings, checked before anything is imported that takes seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from omegaconf import DictConfig

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.sizes import parse_bytes

_LEAST = 2**20
"""Bytes of memory that any device has: fewer, and the unit was left out."""


@dataclass(frozen=True)
class Asked:
    """Settings of a plan."""

    memory: dict[str, int]
    """Bytes by `device_memory` and `host_memory`, where they are given."""
    as_given: dict[str, str]
    """The same, as they were written."""
    fragmentation: float
    device_flops: float
    mfu: float

    @classmethod
    def of(cls, config: DictConfig) -> "Asked":
        """Those of a configuration.

        Raises:
            UserError: If any is impossible; all of them at once.
        """
        problems: list[str] = []

        def read(name: str, parse: Callable[[Any], Any]) -> Any:
            try:
                return parse(config[name])
            except UserError as error:
                problems.append(str(error))

        places = [name for name in ("device_memory", "host_memory") if config[name] is not None]
        memory = {name: read(name, partial(_memory, name=name)) for name in places}
        found = cls(
            memory,
            as_given={name: str(config[name]) for name in places},
            fragmentation=read("fragmentation", _number("fragmentation", "in [0, 1)", lambda x: 0 <= x < 1)),
            device_flops=read("device_flops", _number("device_flops", "above 0, such as 312e12", lambda x: x > 0)),
            mfu=read("mfu", _number("mfu", "in (0, 1]", lambda x: 0 < x <= 1)),
        )
        for name in ("prompt_length", "response_length"):
            length = config[name]
            if length is not None and (not isinstance(length, int) or length < 1):
                problems.append(f"{name}={length}: must be a number of tokens, 1 or more")
        raise_problems(problems)
        return found


def _memory(value: Any, name: str) -> int:
    size = parse_bytes(value, name)
    if size < _LEAST:
        raise UserError(f"{name}={value}: these are bytes: give a unit, as in {name}=24GB or 24GiB")
    return size


def _number(name: str, rule: str, holds: Callable[[float], bool]) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not (isfinite(number) and holds(number)):
            raise UserError(f"{name}={value}: must be a number {rule}")
        return number

    return parse
