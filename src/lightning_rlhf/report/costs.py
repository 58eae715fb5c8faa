"""What each stage of a run has cost: time, speed and memory."""

from collections.abc import Callable

import numpy as np

from lightning_rlhf.report.formatting import Show, decimal, duration
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.table import Table


def costs(run: Run) -> Table:
    """Time, speed and memory of each stage. Columns without values are left out."""
    columns: dict[str, Callable[[Stage], str]] = {
        "Time": lambda stage: "" if stage.result.seconds is None else duration(stage.result.seconds),
        "Rollouts": lambda stage: _reduced(stage, "perf/rollout_seconds", np.nansum, duration),
        "Updates": lambda stage: _reduced(stage, "perf/update_seconds", np.nansum, duration),
        "Evaluations": lambda stage: _reduced(stage, "perf/evaluation_seconds", np.nansum, duration),
        "Tokens/s": lambda stage: _reduced(stage, "perf/tokens_per_second", np.nanmedian, decimal),
        "Samples/s": lambda stage: _reduced(stage, "perf/samples_per_second", np.nanmedian, decimal),
        "TFLOP/s": lambda stage: _reduced(stage, "perf/tflops", np.nanmedian, decimal),
        "Peak memory": _peak,
        "Planned": _planned,
    }
    cells = {title: [cell(stage) for stage in run.stages] for title, cell in columns.items()}
    kept = tuple(title for title, column in cells.items() if any(column))
    rows = [(stage.record.title, *(cells[title][i] for title in kept)) for i, stage in enumerate(run.stages)]
    if len(run.stages) > 1 and "Time" in kept and run.result.seconds is not None:
        rows.append(("Whole pipeline", *(duration(run.result.seconds) if title == "Time" else "" for title in kept)))
    return Table(("Stage", *kept), tuple(rows) if kept else ())


def _reduced(stage: Stage, name: str, reduce: Callable[..., float], show: Show) -> str:
    series = stage.series.get(name)
    return "" if series is None or series.last is None else show(float(reduce(series.y)))


def _planned(stage: Stage) -> str:
    return "" if stage.planned_bytes is None else f"{stage.planned_bytes / 2**30:.2f} GiB of tensors"


def _peak(stage: Stage) -> str:
    if stage.result.peak_bytes is not None:
        # The memory of a process includes Python and libraries, which a plan does not.
        what = ", whole process" if stage.result.peak_of == "whole process" else ""
        return f"{stage.result.peak_bytes / 2**30:.2f} GiB{what}"
    return _reduced(stage, "perf/peak_gib", np.nanmax, lambda gib: f"{gib:.2f} GiB")
