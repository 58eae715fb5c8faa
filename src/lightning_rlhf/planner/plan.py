"""The plan of a stage: the peak of each phase, whether it fits, and its FLOPs."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lightning_rlhf.planner.flops import iteration_flops
from lightning_rlhf.planner.host import host_bytes
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes, Moment, by_kind, by_role, peak, total
from lightning_rlhf.planner.phases import moments, run_passes
from lightning_rlhf.planner.speed import Speed
from lightning_rlhf.planner.timing import Time, times


@dataclass(frozen=True)
class Plan:
    """The plan of one stage."""

    job: Job
    fragmentation: float = 0.0

    @cached_property
    def phases(self) -> dict[str, Moment]:
        """The peak of each phase on each device."""
        found = moments(self.job)
        names = dict.fromkeys(moment.phase for moment in found)
        peaks = (peak([moment for moment in found if moment.phase == name]) for name in names)
        return {moment.phase: self._with_margin(moment) for moment in peaks}

    @property
    def peak(self) -> Moment:
        """The highest peak of all phases."""
        return peak(list(self.phases.values()))

    @property
    def host(self) -> dict[str, Bytes]:
        """The host memory of all processes of a machine, by phase."""
        return host_bytes(self.job, run_passes(self.job).sizes)

    @property
    def host_peak(self) -> int:
        """The peak of the host memory in bytes. If the devices are CPUs, it is the device memory of the processes."""
        if not self.job.on_gpu:
            return self.job.processes_per_node * self.peak.total
        return max(map(total, self.host.values()), default=0)

    def fits(self, device_memory: int | None, host_memory: int | None = None) -> bool:
        """Whether the plan fits into the memory that is limited."""
        return not self.short(device_memory, host_memory)

    def short(self, device_memory: int | None, host_memory: int | None = None) -> dict[str, int]:
        """Missing bytes, by the setting that limits them; empty if the plan fits."""
        needs = {"device_memory": (self.peak.total, device_memory), "host_memory": (self.host_peak, host_memory)}
        return {name: peak - limit for name, (peak, limit) in needs.items() if limit is not None and peak > limit}

    @property
    def flops(self) -> dict[str, float]:
        """FLOPs by phase, of an iteration of PPO or of an optimizer step of another stage."""
        return iteration_flops(self.job, run_passes(self.job).sizes)

    def times(self, speed: Speed) -> dict[str, Time]:
        """The time of each phase on devices of a speed."""
        return times(self.job, run_passes(self.job), self.flops, speed)

    def record(self) -> dict[str, Any]:
        """The plan as plain values for JSON."""
        return {
            "peak_bytes_per_device": self.peak.total,
            "peak_phase": self.peak.phase,
            "peak_at": self.peak.what,
            "host_bytes": self.host_peak,
            "phases": {
                name: {"bytes": m.total, "at": m.what, "by_role": by_role(m.held), "by_kind": by_kind(m.held)}
                for name, m in self.phases.items()
            },
            "host": {
                name: {"bytes": total(held), "by_role": by_role(held), "by_kind": by_kind(held)}
                for name, held in self.host.items()
            },
            "parameters": {role: net.count for role, net in run_passes(self.job).sizes.held.items()},
            "trained": {role: net.trained for role, net in run_passes(self.job).sizes.held.items()},
            "flops": self.flops,
            "micro_batch_size": self.job.micro_batch_size,
            "micro_batch_tokens": self.job.micro_batch_size * self.job.row_tokens,
        }

    def _with_margin(self, moment: Moment) -> Moment:
        margin: Bytes = Counter({("", "margin"): round(moment.total * self.fragmentation)})
        return replace(moment, held=moment.held + margin)
