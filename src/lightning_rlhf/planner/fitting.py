"""Finds what makes a plan fit: single settings and what each saves, combinations of settings, and micro-batch sizes."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.knobs import Knob, knobs
from lightning_rlhf.planner.plan import Plan


class Limits(NamedTuple):
    """Available memory in bytes; None means that there is no limit."""

    device: int | None = None
    """Memory of each device."""
    host: int | None = None
    """Memory of each machine."""


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Saving:
    """The effect of a knob on a plan."""

    knob: Knob
    peak: int
    """Peak on a device with the knob, in bytes."""
    saves: int
    """Bytes that the knob saves on a device."""
    host_peak: int
    """Peak of a machine with the knob, in bytes."""
    host_saves: int
    """Bytes that the knob saves on a machine."""
    fits: bool | None
    """Whether the plan fits with the knob; None if there is no limit."""


def savings(plan: Plan, limits: Limits = NO_LIMITS) -> list[Saving]:
    """What each knob saves by itself, with the largest saving first. Knobs that save nothing are left out."""
    found = []
    for knob in knobs(plan.job):
        changed = turned(plan, [knob])
        fits = changed.fits(*limits) if any(limits) else None
        saves, host_saves = plan.peak.total - changed.peak.total, plan.host_peak - changed.host_peak
        if saves > 0 or (host_saves > 0 and limits.host is not None):
            found.append(Saving(knob, changed.peak.total, saves, changed.host_peak, host_saves, fits))
    return sorted(found, key=lambda saving: -saving.saves)


def turned(plan: Plan, chosen: list[Knob]) -> Plan:
    """The plan after turning some knobs in order."""
    job = plan.job
    for knob in chosen:
        job = knob.turn(job)
    return replace(plan, job=job)


def smallest(plan: Plan, limits: Limits) -> list[Knob] | None:
    """The mildest knob that makes a plan fit, or a minimal combination of several.

    Returns:
        The knobs; empty if the plan fits already, and None if no combination makes it fit.
    """
    if plan.fits(*limits):
        return []
    for knob in knobs(plan.job):
        if turned(plan, [knob]).fits(*limits):
            return [knob]
    # Quantized weights cannot be divided, so a combination contains one or the other.
    return _together(plan, limits, without="quantizes") or _together(plan, limits, without="divides")


def _together(plan: Plan, limits: Limits, without: str) -> list[Knob] | None:
    """Turns one knob after the other, the mildest first. Lists them again each time, because a strategy adds knobs."""
    chosen: list[Knob] = []
    tried: set[str] = set()
    while not turned(plan, chosen).fits(*limits):
        left = (knob for knob in knobs(turned(plan, chosen).job) if knob.key not in tried)
        knob = next((knob for knob in left if not getattr(knob, without)), None)
        if knob is None:
            return None
        tried.add(knob.key)
        # A strategy replaces an earlier strategy and the settings of that strategy.
        chosen = [other for other in chosen if not (knob.is_strategy and other.of_strategy)] + [knob]
    # Earlier knobs may have become unnecessary.
    for knob in chosen[:-1]:
        fewer = [other for other in chosen if other is not knob]
        if possible(plan.job, fewer) and turned(plan, fewer).fits(*limits):
            chosen = fewer
    return chosen


def possible(job: Job, chosen: list[Knob]) -> bool:
    """Whether each knob is still offered with the same setting after turning those before it."""
    for knob in chosen:
        if knob.setting not in {other.setting for other in knobs(job)}:
            return False
        job = knob.turn(job)
    return True


@dataclass(frozen=True)
class MicroBatch:
    """The number of sequences that a process updates on at a time, and the setting that leads to this number."""

    rows: int
    setting: str


def largest_micro_batch(plan: Plan, limits: Limits) -> MicroBatch | None:
    """The largest micro-batch that fits and divides the share of a process; None if not even one row fits."""
    job = plan.job
    share = max(1, job.minibatch_size // job.processes)
    sizes = [rows for rows in range(1, share + 1) if share % rows == 0]

    def fits(rows: int) -> bool:
        return replace(plan, job=job.with_rows(rows)).fits(*limits)

    # Sizes before index `low` fit, and sizes from index `high` on do not.
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    if not low:
        return None
    rows = sizes[low - 1]
    return MicroBatch(rows, f"{job.record.block}.trainer.accumulate_grad_batches={share // rows}")
