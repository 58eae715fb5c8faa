"""The plan of a stage: the whole plan for `plan`, and one line for a stage that is about to run."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.plan_job import job_of, layout_of
from lightning_rlhf.assembly.plan_lengths import lengths
from lightning_rlhf.assembly.plan_rows import with_filled_minibatch
from lightning_rlhf.assembly.plan_settings import Asked
from lightning_rlhf.assembly.stage_checks import refused
from lightning_rlhf.assembly.target_checks import check_names, of_stage
from lightning_rlhf.console import console
from lightning_rlhf.distributed.lack_of_memory import remember_plan
from lightning_rlhf.planner.fitting import Limits, largest_micro_batch, savings, smallest
from lightning_rlhf.planner.memory import by_kind
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.saving import write_json
from lightning_rlhf.sizes import readable
from lightning_rlhf.stages import stage_record


def planned_stage(config: DictConfig, stage: str, asked: Asked) -> tuple[Plan, dict[str, Any]]:
    """The plan of a stage, and its record in `result.json`.

    Raises:
        UserError: If a setting is wrong, or the planner does not support what the configuration names.
    """
    check_names(of_stage(config, stage_record(stage).block, resolve=False))
    config, adapted = with_filled_minibatch(config, stage)
    plan = Plan(job_of(config, stage), asked.fragmentation)
    memory = asked.memory
    limits = Limits(memory.get("device_memory"), memory.get("host_memory"))
    record = plan.record()
    record["lengths"] = lengths(config, plan.job.record)._asdict()
    record["notes"] = [
        *_about_cpus(config, plan, asked),
        *adapted,
        *(f"train refuses this: {text}" for text in refused(plan.job)),
    ]
    record["fits"] = plan.fits(*limits) if memory else None
    record["short"] = plan.short(*limits)
    taken = plan.times(asked.speed)
    record["seconds"] = {phase: time.seconds for phase, time in taken.items()}
    record["bound_by"] = {phase: time.bound_by for phase, time in taken.items()}
    record["knobs"] = [
        {
            "setting": saving.knob.setting,
            "saves": saving.saves,
            "peak": saving.peak,
            "host_saves": saving.host_saves,
            "host_peak": saving.host_peak,
            "fits": saving.fits,
            "cost": saving.knob.cost,
        }
        for saving in savings(plan, limits)
    ]
    # A search takes time, so it is made only for a user who gives a limit.
    if set(memory) - ({"host_memory"} if asked.found else set()):
        chosen, largest = smallest(plan, limits), largest_micro_batch(plan, limits)
        record["remedy"] = None if chosen is None else [knob.setting for knob in chosen]
        record["largest_micro_batch"] = 0 if largest is None else largest.rows
        record["largest_micro_batch_setting"] = None if largest is None else largest.setting
        record["peak_of_one_row"] = replace(plan, job=plan.job.with_rows(1)).peak.total
    return plan, record


def _about_cpus(config: DictConfig, plan: Plan, asked: Asked) -> list[str]:
    """A note that the devices are CPUs, if the user may have meant GPUs."""
    meant = "device_memory" in asked.memory or plan.job.processes > plan.job.processes_per_node
    if plan.job.on_gpu or not (meant or layout_of(config).offloads):
        return []
    return ["the devices are CPUs, so what is offloaded stays in the same memory: add trainer=gpu to plan for GPUs"]


def print_plan_line(config: DictConfig, stage: str, folder: Path) -> None:
    """Prints the planned peak, and writes `plan.json` for the run card. A run does not fail if it cannot be planned.

    Args:
        config: The configuration of the run.
        stage: Name of the stage.
        folder: Folder of the stage.
    """
    try:
        plan = Plan(job_of(config, stage), fragmentation())
        peak = plan.peak
    except Exception as error:  # a custom architecture or strategy may raise anything on fake tensors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        console.say(f" no plan: {reason[0]}")
        return
    largest = sorted(by_kind(peak.held).items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{kind.replace('_', ' ')} {readable(size)}" for kind, size in largest)
    total = f"{readable(peak.total)} of tensors on each device"
    console.say(f" planned peak: {total} ({peak.phase}; {parts})")
    remember_plan(f"a peak of {total}")
    write_json(folder / "plan.json", plan.record())


def fragmentation() -> float:
    """The default of `plan`, so that both predict the same for a run."""
    return float(OmegaConf.load(str(files("lightning_rlhf.conf") / "plan.yaml")).fragmentation)
