"""Prints a plan as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_rlhf.assembly.plan_settings import Asked
from lightning_rlhf.planner.memory import KINDS, Bytes, by_kind, by_role, total
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.planner.speed import Speed
from lightning_rlhf.sizes import readable

# Short names keep a table with all columns within 80 characters.
_SHORT = {
    "parameters": "weights",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "kv_cache": "kv",
    "gathered": "gather",
    "experience": "exp",
}


def print_plan(stage: str, plan: Plan, record: dict[str, Any], asked: Asked) -> None:
    """Prints the plan of a stage: phases by kind, the peak by role, the verdict, what would help, and the time.

    Args:
        stage: Name of the stage.
        plan: The plan.
        record: The record of the plan in `result.json`.
        asked: The settings of the plan.
    """
    console, job = Console(soft_wrap=True, highlight=False), plan.job
    devices = f"{job.processes} GPU(s)" if job.on_gpu else f"{job.processes} process(es) on CPUs"
    console.print(
        f"\n[bold]{stage}[/]: {devices}, micro-batches of {job.micro_batch_size} (at most "
        f"{job.micro_batch_size * job.row_tokens:,} tokens)"
        + (f", rollouts of {job.sampled_rows}" if job.record.samples else "")
    )
    console.print(f" planned with {record['lengths']['source']}", markup=False)
    for note in record["notes"]:
        console.print(f" {note}", style="yellow", markup=False)
    _print_sizes(console, {name: moment.held for name, moment in plan.phases.items()}, plan.peak.phase, plan.peak.what)
    if plan.host:
        console.print(f" host: {readable(plan.host_peak)} for each machine")
        largest = max(plan.host, key=lambda phase: total(plan.host[phase]))
        _print_sizes(console, plan.host, largest, "all processes of a machine")
    _print_verdict(console, record, asked, *_unit(plan.peak.total))
    _print_time(console, record, asked.speed, "iteration" if job.record.samples else "optimizer step")
    if not job.on_gpu:
        console.print(
            " device_flops, mfu, device_bandwidth and mbu are those of an A100 where you have not set them; a CPU is "
            "far slower"
        )


def _print_time(console: Console, record: dict[str, Any], speed: Speed, per: str) -> None:
    flops, taken = sum(record["flops"].values()), record["seconds"]
    bound = {"compute": "", "memory": ", bound by memory"}
    parts = "; ".join(f"{name} {value:.3g} s{bound[record['bound_by'][name]]}" for name, value in taken.items())
    console.print(f" {flops:.3g} FLOPs for each {per}: {sum(taken.values()):.3g} s ({parts})")
    console.print(
        f" on devices of {speed.flops / 1e12:.4g} TFLOP/s x {speed.mfu:.3g} (device_flops, mfu) and "
        f"{speed.bandwidth / 1e12:.3g} TB/s x {speed.mbu:.3g} (device_bandwidth, mbu)"
    )


def _print_sizes(console: Console, phases: dict[str, Bytes], largest: str, what: str) -> None:
    """Prints the memory of each phase by kind, and that of the largest phase by role."""
    unit, factor = _unit(total(phases[largest]))
    console.print(_sizes(unit, factor, {name: by_kind(held) for name, held in phases.items()}, largest))
    console.print(f" peak in {largest}: {what}")
    console.print(_sizes(unit, factor, by_role(phases[largest]), None))


def _unit(size: int) -> tuple[str, int]:
    return ("GiB", 2**30) if size >= 2**30 else ("MiB", 2**20)


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


def _print_verdict(console: Console, record: dict[str, Any], asked: Asked, unit: str, factor: int) -> None:
    if record["fits"] is not None:
        for verdict, short in (("[bold red]does not fit[/]", True), ("[bold green]fits[/]", False)):
            names = [name for name in asked.memory if (name in record["short"]) is short]
            if names:
                console.print(f" {verdict} in {', '.join(f'{name}={_limit(asked, name)}' for name in names)}")
    if asked.found:
        console.print(f" host_memory was found: {asked.found}", markup=False)
    elif "host_memory" not in asked.memory:
        console.print(
            f" assumed: each machine has the {readable(record['host_bytes'])} of host memory that this takes; "
            "host_memory=… checks it"
        )
    for name, size in record["short"].items():
        console.print(f" {name} is short by {_like_given(size, asked.as_given[name])}")
    if "remedy" in record:
        rows, setting = record["largest_micro_batch"], record["largest_micro_batch_setting"]
        smaller = f"{rows} ({setting})" if rows else "none, by this alone"
        console.print(f" largest micro-batch that fits: {smaller}")
    if record["fits"] is False:
        remedy = record.get("remedy")
        if "remedy" not in record:
            console.print(" host_memory=… or device_memory=… searches for settings that make it fit")
        elif remedy is None:
            console.print(" no combination of the settings below makes it fit: use more devices or a smaller model")
        else:
            console.print(f" it fits with: [bold]{' '.join(remedy)}[/]")
    if record["knobs"] and not (record["fits"] and "remedy" in record):
        _print_knobs(console, record["knobs"], unit, factor, with_host="host_memory" in asked.memory)


def _print_knobs(console: Console, knobs: list[dict[str, Any]], unit: str, factor: int, *, with_host: bool) -> None:
    table = _table("saves", "peak", *(("host",) if with_host else ()), "fits", f"{unit}; by")
    for knob in knobs:
        sizes = [knob["saves"], knob["peak"], *((knob["host_peak"],) if with_host else ())]
        fits = {None: "", True: "yes", False: "no"}[knob["fits"]]
        setting = f"{knob['setting']}\n[dim]  {knob['cost']}[/]"
        table.add_row(*(_number(size / factor) for size in sizes), fits, setting)
    table.columns[0].no_wrap = True
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    console.print(table)


def _limit(asked: Asked, name: str) -> str:
    """A limit as the user wrote it, and in the unit of the tables."""
    given = asked.as_given[name]
    return given if given.lower().endswith("ib") else f"{given} ({readable(asked.memory[name])})"


def _like_given(size: int, given: str) -> str:
    """A size in the unit of the tables, and in the unit of the limit."""
    return readable(size) if given.lower().endswith("ib") else f"{readable(size)} ({size / 1e9:,.1f} GB)"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
