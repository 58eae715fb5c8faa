"""Memory in bytes, by role and by kind."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "kv_cache",
    "gathered",
    "buckets",
    "experience",
    "margin",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
Bytes = Counter[tuple[str, Kind]]
"""Bytes by role and kind. The role is empty for memory that belongs to no role."""


@dataclass(frozen=True)
class Moment:
    """The memory that is held on each device at a point of a phase."""

    phase: str
    what: str
    """The point within the phase, such as `critic backward, head`."""
    held: Bytes

    @property
    def total(self) -> int:
        """All bytes of the moment."""
        return total(self.held)


def total(held: Bytes) -> int:
    """The sum of all bytes."""
    return sum(held.values())


def by_kind(held: Bytes) -> dict[str, int]:
    """Bytes of each kind over all roles, without kinds that have none."""
    sums = {kind: sum(size for (_, k), size in held.items() if k == kind) for kind in KINDS}
    return {kind: size for kind, size in sums.items() if size}


def by_role(held: Bytes) -> dict[str, dict[str, int]]:
    """Bytes of each kind, for each role. `other` is the memory that belongs to no role."""
    roles = dict.fromkeys(role for role, _ in held)
    return {role or "other": {k: size for (r, k), size in held.items() if r == role and size} for role in roles}


def peak(moments: list[Moment]) -> Moment:
    """The moment with the most bytes on the device."""
    return max(moments, key=lambda moment: moment.total)
