"""A plan as people read it."""

from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_rlhf.planner.memory import KINDS, by_kind, by_role
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.sizes import readable

# So that a table with all of them is no wider than 80 characters.
_SHORT = {
    "parameters": "weights",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "kv_cache": "kv",
    "gathered": "gather",
    "experience": "exp",
}


def print_plan(stage: str, plan: Plan, record: dict[str, Any], limits: dict[str, int | None]) -> None:
    """Prints the plan of a stage: phases by kind, the peak by role, the verdict, what would help, and the time.

    Args:
        stage: Its name.
        plan: The plan.
        record: What `result.json` says of it.
        limits: `device_memory` and `host_memory`, where they are given.
    """
    console, job = Console(soft_wrap=True, highlight=False), plan.job
    lengths = f"{job.prompt_length} + {job.response_length}" if job.prompt_length else str(job.response_length)
    console.print(
        f"\n[bold]{stage}[/]: {job.processes} device(s), {lengths} tokens, micro-batches of {job.micro_batch_size}"
        + (f", rollouts of {job.rollout_rows}" if job.stage == "ppo" else "")
    )
    unit, factor = ("GiB", 2**30) if plan.peak.total >= 2**30 else ("MiB", 2**20)
    rows = {name: by_kind(moment.held) for name, moment in plan.phases.items()}
    console.print(_sizes(unit, factor, rows, plan.peak.phase))
    console.print(f" peak in {plan.peak.phase}: {plan.peak.what}")
    console.print(_sizes(unit, factor, {role or "all": held for role, held in by_role(plan.peak.held).items()}, None))
    if plan.host_peak:
        console.print(f" host: {readable(plan.host_peak)} for each machine")
    _print_verdict(console, record, limits, unit, factor)
    flops, times = sum(record["flops"].values()), record["seconds"]
    per = "iteration" if job.stage == "ppo" else "optimizer step"
    parts = ", ".join(f"{name} {value:.3g} s" for name, value in times.items())
    console.print(f" {flops:.3g} FLOPs for each {per}: {sum(times.values()):.3g} s ({parts})")


def _sizes(unit: str, factor: int, rows: dict[str, dict[str, int]], bold: str | None) -> Table:
    """A row for each name, a column for each kind."""
    kinds = [kind for kind in KINDS if any(round(held.get(kind, 0) / factor, 1) > 0 for held in rows.values())]
    table = _table(unit, *(_SHORT.get(kind, kind) for kind in kinds), "total")
    for name, held in rows.items():
        cells = [*(held.get(kind, 0) for kind in kinds), sum(held.values())]
        shown = (_number(size / factor) if round(size / factor, 1) > 0 else "" for size in cells)
        table.add_row(name, *shown, style="bold" if name == bold else None)
    return table


def _number(size: float) -> str:
    return f"{size:,.1f}" if size < 1000 else f"{size:,.0f}"


def _print_verdict(
    console: Console, record: dict[str, Any], limits: dict[str, int | None], unit: str, factor: int
) -> None:
    if record["fits"] is not None:
        given = ", ".join(f"{name}={readable(size)}" for name, size in limits.items() if size)
        console.print(f" {'[bold green]fits[/]' if record['fits'] else '[bold red]does not fit[/]'} in {given}")
    if limits["device_memory"] is not None:
        console.print(f" largest micro-batch that fits: {record['largest_micro_batch'] or 'none'}")
    if record["fits"] is False:
        remedy = record.get("remedy")
        if remedy:
            console.print(f" smallest change: [bold]{' '.join(remedy)}[/]")
        elif remedy is None and limits["device_memory"] is not None:
            console.print(" no setting makes it fit: take more devices, or a smaller model")
    if record["knobs"] and record["fits"] is not True:
        table = _table("saves", "peak", "fits", f"{unit}; by")
        for knob in record["knobs"]:
            fits = {None: "", True: "yes", False: "no"}[knob["fits"]]
            setting = f"{knob['setting']}\n[dim]  {knob['cost']}[/]"
            table.add_row(_number(knob["saves"] / factor), _number(knob["peak"] / factor), fits, setting)
        table.columns[-1].justify = "left"
        console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
