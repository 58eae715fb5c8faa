"""The settings that only a plan has. They are checked before imports that take seconds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import TypeVar

from omegaconf import DictConfig

from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.planner.speed import Speed
from lightning_rlhf.planner.this_machine import HostMemory
from lightning_rlhf.sizes import parse_bytes, readable

_LEAST = 2**20
"""Bytes of memory that any device has. If the user gives fewer, the unit was left out, or is a wrong one."""

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class Asked:
    """The settings of a plan, parsed."""

    memory: dict[str, int]
    """`device_memory` and `host_memory` in bytes, where they are known."""
    as_given: dict[str, str]
    """The same settings as the user wrote them."""
    fragmentation: float
    speed: Speed
    """The speed of a device."""
    found: str | None = None
    """What says how much host memory there is, if the user does not."""

    @classmethod
    def of(cls, config: DictConfig) -> "Asked":
        """Parses the settings of a configuration.

        Raises:
            UserError: If any setting is impossible. The message names all of them.
        """
        problems: list[str] = []

        def read(name: str, parse: Callable[[object], _Parsed], otherwise: _Parsed) -> _Parsed:
            """Parses a setting, or notes the problem and returns a placeholder."""
            try:
                return parse(config[name])
            except UserError as error:
                problems.append(str(error))
                return otherwise

        def positive(name: str, example: str) -> float:
            return read(name, _number(name, f"above 0, such as {example}", lambda x: x > 0), 0.0)

        def share(name: str) -> float:
            return read(name, _number(name, "in (0, 1]", lambda x: 0 < x <= 1), 0.0)

        places = [name for name in ("device_memory", "host_memory") if config[name] is not None]
        memory = {name: read(name, partial(_memory, name=name), 0) for name in places}
        found = cls(
            memory,
            as_given={name: str(config[name]) for name in places},
            fragmentation=read("fragmentation", _number("fragmentation", "in [0, 1)", lambda x: 0 <= x < 1), 0.0),
            speed=Speed(
                flops=positive("device_flops", "312e12"),
                mfu=share("mfu"),
                bandwidth=positive("device_bandwidth", "2.0e12"),
                mbu=share("mbu"),
            ),
        )
        for name in ("prompt_length", "response_length"):
            length = config[name]
            if length is not None and (not isinstance(length, int) or length < 1):
                problems.append(f"{name}={length}: must be a number of tokens, 1 or more")
        raise_problems(problems)
        return found

    def with_host_memory(self, memory: HostMemory) -> "Asked":
        """These settings with the host memory that was found, unless the user gives it."""
        if "host_memory" in self.memory:
            return self
        return replace(
            self,
            memory=self.memory | {"host_memory": memory.size},
            as_given=self.as_given | {"host_memory": readable(memory.size)},
            found=memory.source,
        )


def _memory(value: object, name: str) -> int:
    size = parse_bytes(str(value), name)
    if size >= _LEAST:
        return size
    example = f"as in {name}=24GB or 24GiB"
    if str(value).strip()[-1].isdigit():
        raise UserError(f"{name}={value}: this is a number of bytes: give a unit, {example}")
    raise UserError(f"{name}={value}: must be at least {readable(_LEAST)}, {example}")


def _number(name: str, rule: str, holds: Callable[[float], bool]) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            number = float(value) if isinstance(value, str | int | float) else float("nan")
        except ValueError:
            number = float("nan")
        if not (isfinite(number) and holds(number)):
            raise UserError(f"{name}={value}: must be a number {rule}")
        return number

    return parse
