"""The memory that was planned for each phase of a stage, against what the run has taken."""

from collections.abc import Mapping

from lightning_rlhf.report.formatting import percent
from lightning_rlhf.report.logs import number
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.table import Table


def memory(run: Run) -> Table:
    """A row for each stage that was planned: the peak of each phase, the whole peak, and what was measured.

    The share of the plan is known where tensors were measured, and its column is left out if there is none. A process
    includes Python and its libraries, which are in no plan.
    """
    planned = [stage for stage in run.stages if stage.planned_bytes is not None]
    phases = list(dict.fromkeys(name for stage in planned for name in _phases(stage)))
    rows = tuple(
        (
            stage.record.title,
            *(_gib(_phases(stage).get(name)) for name in phases),
            _gib(stage.planned_bytes),
            _gib(stage.result.peak_bytes) + ("" if _tensors(stage) else " (whole process)"),
            _share(stage),
        )
        for stage in planned
        if stage.result.peak_bytes is not None
    )
    columns = ("Stage", *(name.capitalize() for name in phases), "Planned peak", "Measured", "Of the plan")
    if not any(row[-1] for row in rows):
        return Table(columns[:-1], tuple(row[:-1] for row in rows))
    return Table(columns, rows)


def _phases(stage: Stage) -> dict[str, float]:
    phases = stage.plan.get("phases")
    if not isinstance(phases, Mapping):
        return {}
    sizes = {str(name): number(phase.get("bytes")) for name, phase in phases.items() if isinstance(phase, Mapping)}
    return {name: size for name, size in sizes.items() if size is not None}


def _tensors(stage: Stage) -> bool:
    return stage.result.peak_of != "whole process"


def _share(stage: Stage) -> str:
    if not _tensors(stage) or not stage.planned_bytes or stage.result.peak_bytes is None:
        return ""
    return percent(stage.result.peak_bytes / stage.planned_bytes)


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f} GiB"
