"""Makes a table of all runs of a sweep, and a page that compares them."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from lightning_rlhf.assembly.run_files import overrides_of, read_record
from lightning_rlhf.assembly.sweeper import SweepRefused, choose_jobs, run_distinct_jobs
from lightning_rlhf.console import console, number

# Folders of sweeps that have begun, and whose table is not written yet.
_open: list[Path] = []
# The overrides of all jobs of the sweep.
_jobs: list[list[str]] = []


class SweepTable(Callback):
    """A Hydra callback that writes and prints a table of all runs, `sweep.csv`, when a sweep ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Notes that a table will be due, and which jobs it has."""
        folder = Path(config.hydra.sweep.dir)
        run_distinct_jobs(_jobs, folder)
        if search := getattr(config, "search", None):
            choose_jobs(search)
        _open.append(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Makes the table from the `result.json` of each run."""
        _open.remove(folder := Path(config.hydra.sweep.dir))
        write_table(folder, _jobs)


@contextmanager
def table_even_of_failures() -> Iterator[None]:
    """Context in which a sweep leaves its table even if a run has failed or diverged.

    Hydra raises the error of such a run when all runs have ended, and then does not call `on_multirun_end`.
    """
    try:
        yield
    except SweepRefused:
        _open.clear()
        raise
    finally:
        while _open:
            write_table(_open.pop(), _jobs)


def write_table(folder: Path, jobs: Sequence[list[str]] = ()) -> None:
    """Writes and prints the table of a sweep, if it has runs.

    Args:
        folder: Folder of the sweep.
        jobs: The overrides of all jobs, where they are known. Those without a folder did not begin.
    """
    rows = sweep_rows(folder)
    if rows:
        begun = {str(row["run"]) for row in rows}
        rows += [
            {"run": str(number), **_by_key(job), "status": "not begun"}
            for number, job in enumerate(jobs)
            if str(number) not in begun
        ]
    if not rows:
        return
    settings = dict.fromkeys(name for row in rows for name in takewhile(lambda name: name != "status", row))
    columns = list(settings | dict.fromkeys(name for row in rows for name in row))
    with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    # The terminal shows only the columns that differ between the runs, only the settings that differ between the runs
    # that have them, and the status unless all have finished.
    shown = [
        column
        for column in columns
        if len({str(row.get(column)) for row in rows if column in row or column not in settings}) > 1
        or len(rows) == 1
        or (column == "status" and rows[0][column] != "finished")
    ]
    # The page needs libraries that take time to import.
    from lightning_rlhf.assembly.report import page_of_sweep
    from lightning_rlhf.report.comparison.table import shortened

    table = Table(box=None, padding=(0, 1), header_style="dim")
    for column in shown:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(shortened(_cell(row.get(column))) for column in shown))
    console.print()
    console.table(table)
    console.print(f"\n  table     {folder / 'sweep.csv'}", markup=False, soft_wrap=True)
    if (page := page_of_sweep(folder)) is not None:
        console.print(f"  page      {page}", markup=False, soft_wrap=True)


def sweep_rows(folder: Path) -> list[dict[str, object]]:
    """One row for each run below a folder: its overrides, its status and its metrics.

    A metric that is not finite is `NaN`. A run that ended before it could leave a result has failed.
    """
    rows = []
    numbered = [path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()]
    for job in sorted(numbered, key=lambda path: int(path.name)):
        record, given = job / "result.json", job / ".hydra" / "overrides.yaml"
        if not given.is_file():
            continue
        result = read_record(record) if record.is_file() else {"status": "failed"}
        row: dict[str, object] = {"run": job.name}
        row |= _by_key(overrides_of(job))
        row |= {"status": result.get("status"), "seconds": result.get("seconds")}
        stages = cast(dict[str, dict[str, Any]], result.get("stages", {"": result}))
        for stage, part in stages.items():
            metrics = {f"{stage}.{name}".lstrip("."): value for name, value in part.get("metrics", {}).items()}
            row |= {name: math.nan if value is None else value for name, value in metrics.items()}
        rows.append(row)
    return rows


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.lstrip("+~").split("=", 1) for override in overrides if "=" in override)


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)
