"""A table of all runs of a sweep."""

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table


class SweepTable(Callback):
    """A Hydra callback: when a sweep ends, writes `sweep.csv` into its folder and prints it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the `result.json` of each run."""
        folder = Path(config.hydra.sweep.dir)
        rows = sweep_rows(folder)
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        # On the screen only what differs between the runs.
        shown = [column for column in columns if len({str(row.get(column)) for row in rows}) > 1 or len(rows) == 1]
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for column in shown:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in shown))
        console = Console(soft_wrap=True)
        console.print()
        console.print(table)
        console.print(f"\n  table     {folder / 'sweep.csv'}", highlight=False)


def sweep_rows(folder: Path) -> list[dict[str, Any]]:
    """One row for each run below a folder: what was set, how it ended, its metrics."""
    rows = []
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    for job in sorted(numbered, key=lambda path: int(path.name)):
        record = job / "result.json"
        if not record.is_file():
            continue
        result = json.loads(record.read_text(encoding="utf-8"))
        # Unresolved: ${oc.env:KEY} is for the run, not for the table.
        given: Any = OmegaConf.to_container(OmegaConf.load(job / ".hydra" / "overrides.yaml"), resolve=False)
        overrides = [str(override) for override in given]
        row: dict[str, Any] = {"run": job.name}
        row |= dict(override.lstrip("+~").split("=", 1) for override in overrides)
        row |= {"status": result["status"], "seconds": result["seconds"]}
        for stage, part in result.get("stages", {"": result}).items():
            row |= {f"{stage}.{name}".lstrip("."): value for name, value in part["metrics"].items()}
        rows.append(row)
    return rows


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
