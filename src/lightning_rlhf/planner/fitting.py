"""What makes a plan fit: each setting by itself with what it saves, a few together, and smaller micro-batches."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.knobs import Knob, knobs
from lightning_rlhf.planner.plan import Plan


class Limits(NamedTuple):
    """Bytes that there are; None: nobody asks."""

    device: int | None = None
    host: int | None = None
    """Of each machine."""


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Saving:
    """What a knob does to a plan."""

    knob: Knob
    peak: int
    """Bytes on a device with it."""
    saves: int
    host_peak: int
    """Bytes of a machine with it."""
    host_saves: int
    fits: bool | None
    """None: there is no limit."""


def savings(plan: Plan, limits: Limits = NO_LIMITS) -> list[Saving]:
    """What each knob saves by itself, the largest saving first; those that save nothing are left out."""
    found = []
    for knob in knobs(plan.job):
        changed = turned(plan, [knob])
        fits = changed.fits(*limits) if any(limits) else None
        saves, host_saves = plan.peak.total - changed.peak.total, plan.host_peak - changed.host_peak
        if saves > 0 or (host_saves > 0 and limits.host is not None):
            found.append(Saving(knob, changed.peak.total, saves, changed.host_peak, host_saves, fits))
    return sorted(found, key=lambda saving: -saving.saves)


def turned(plan: Plan, chosen: list[Knob]) -> Plan:
    """The plan with some knobs turned, in order."""
    job = plan.job
    for knob in chosen:
        job = knob.turn(job)
    return replace(plan, job=job)


def smallest(plan: Plan, limits: Limits) -> list[Knob] | None:
    """The mildest knob that makes a plan fit, or a few of which none is idle; empty if it fits, None if none do."""
    if plan.fits(*limits):
        return []
    for knob in knobs(plan.job):
        if turned(plan, [knob]).fits(*limits):
            return [knob]
    # What is quantized cannot be divided, so that it is one or the other.
    return _together(plan, limits, without="quantizes") or _together(plan, limits, without="divides")


def _together(plan: Plan, limits: Limits, without: str) -> list[Knob] | None:
    """Turns one knob after the other, the mildest first, and lists them again: a strategy has knobs of its own."""
    chosen: list[Knob] = []
    tried: set[str] = set()
    while not turned(plan, chosen).fits(*limits):
        left = (knob for knob in knobs(turned(plan, chosen).job) if knob.key not in tried)
        knob = next((knob for knob in left if not getattr(knob, without)), None)
        if knob is None:
            return None
        tried.add(knob.key)
        # A strategy takes the place of another, and of what was set of it.
        chosen = [other for other in chosen if not (knob.is_strategy and other.of_strategy)] + [knob]
    # What came first may not be needed, now that the last is there.
    for knob in chosen[:-1]:
        fewer = [other for other in chosen if other is not knob]
        if possible(plan.job, fewer) and turned(plan, fewer).fits(*limits):
            chosen = fewer
    return chosen


def possible(job: Job, chosen: list[Knob]) -> bool:
    """Whether each knob is there, as it is written, when those before it are turned."""
    for knob in chosen:
        if knob.setting not in {other.setting for other in knobs(job)}:
            return False
        job = knob.turn(job)
    return True


@dataclass(frozen=True)
class MicroBatch:
    """Sequences that a process puts through an update at a time, and the setting that makes them so many."""

    rows: int
    setting: str


def largest_micro_batch(plan: Plan, limits: Limits) -> MicroBatch | None:
    """The largest that fits, of those that divide a process's share of the minibatch; None if not even one row does."""
    job = plan.job
    share = max(1, job.minibatch_size // job.processes)
    sizes = [rows for rows in range(1, share + 1) if share % rows == 0]

    def fits(rows: int) -> bool:
        return replace(plan, job=job.with_rows(rows)).fits(*limits)

    # Those below `low` fit, those from `high` on do not.
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    if not low:
        return None
    rows = sizes[low - 1]
    return MicroBatch(rows, f"{job.record.block}.trainer.accumulate_grad_batches={share // rows}")
