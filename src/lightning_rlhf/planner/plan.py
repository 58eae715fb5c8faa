"""The plan of a stage: the peak of each phase, whether it fits, and what it takes in time."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lightning_rlhf.planner.flops import iteration_flops
from lightning_rlhf.planner.host import host_bytes
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes, Moment, by_kind, by_role, peak, total
from lightning_rlhf.planner.phases import moments, run_passes


@dataclass(frozen=True)
class Plan:
    """Of one stage."""

    job: Job
    fragmentation: float = 0.0

    @cached_property
    def phases(self) -> dict[str, Moment]:
        """The peak of each phase, on each device."""
        found = moments(self.job)
        names = dict.fromkeys(moment.phase for moment in found)
        peaks = (peak([moment for moment in found if moment.phase == name]) for name in names)
        return {moment.phase: self._with_margin(moment) for moment in peaks}

    @property
    def peak(self) -> Moment:
        """The highest of the peaks."""
        return peak(list(self.phases.values()))

    @property
    def host(self) -> dict[str, Bytes]:
        """What all processes of a machine hold in its memory, by phase."""
        return host_bytes(self.job, run_passes(self.job).sizes)

    @property
    def host_peak(self) -> int:
        """Bytes."""
        return max(map(total, self.host.values()), default=0)

    def fits(self, device_memory: int | None, host_memory: int | None = None) -> bool:
        """Whether it does; what is not limited is not looked at."""
        on_device = device_memory is None or self.peak.total <= device_memory
        return on_device and (host_memory is None or self.host_peak <= host_memory)

    @property
    def flops(self) -> dict[str, float]:
        """Of an iteration (other stages: of an optimizer step), by phase."""
        return iteration_flops(self.job, run_passes(self.job).sizes)

    def record(self) -> dict[str, Any]:
        """All of it, JSON-like."""
        return {
            "peak_bytes_per_device": self.peak.total,
            "peak_phase": self.peak.phase,
            "peak_at": self.peak.what,
            "host_bytes": self.host_peak,
            "phases": {
                name: {"bytes": m.total, "at": m.what, "by_role": by_role(m.held), "by_kind": by_kind(m.held)}
                for name, m in self.phases.items()
            },
            "host": {name: by_kind(held) for name, held in self.host.items()},
            "parameters": {role: net.count for role, net in run_passes(self.job).sizes.held.items()},
            "trained": {role: net.trained for role, net in run_passes(self.job).sizes.held.items()},
            "flops": self.flops,
            "micro_batch_size": self.job.micro_batch_size,
        }

    def _with_margin(self, moment: Moment) -> Moment:
        margin: Bytes = Counter({("", "margin"): round(moment.total * self.fragmentation)})
        return replace(moment, held=moment.held + margin)


def largest_micro_batch(plan: Plan, device_memory: int, limit: int = 4096) -> int:
    """The most sequences that one device can put through an update at a time; 0 if not even one fits."""

    def fits(rows: int) -> bool:
        return replace(plan, job=plan.job.with_rows(rows)).fits(device_memory)

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
