"""The plan of a stage that is about to run, in a line."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from lightning_rlhf.callbacks.run_record import write_json
from lightning_rlhf.cli.jobs import job_of
from lightning_rlhf.planner.memory import by_kind
from lightning_rlhf.planner.plan import Plan
from lightning_rlhf.sizes import readable


def print_plan_line(config: DictConfig, stage: str, folder: Path) -> None:
    """Prints the planned peak, and leaves `plan.json` for the run card; a run never fails for want of a plan.

    Args:
        config: Of the run.
        stage: Its name.
        folder: Of the stage.
    """
    console = Console(soft_wrap=True, highlight=False)
    try:
        plan = Plan(job_of(config, stage))
        peak = plan.peak
    except Exception as error:  # whatever an architecture or a strategy of the user's own does on fake tensors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        console.print(f" no plan: {reason[0]}", markup=False)
        return
    largest = sorted(by_kind(peak.held).items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{kind.replace('_', ' ')} {readable(size)}" for kind, size in largest)
    console.print(f" planned peak: {readable(peak.total)} of tensors on each device ({peak.phase}; {parts})")
    write_json(folder / "plan.json", plan.record())
