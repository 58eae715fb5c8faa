"""Makes a table of all runs of a sweep."""

import csv
import json
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from lightning_rlhf.console import console, number


class SweepTable(Callback):
    """A Hydra callback that writes and prints a table of all runs, `sweep.csv`, when a sweep ends."""

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Makes the table from the `result.json` of each run."""
        folder = Path(config.hydra.sweep.dir)
        rows = sweep_rows(folder)
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        # The terminal shows only the columns that differ between the runs.
        shown = [column for column in columns if len({str(row.get(column)) for row in rows}) > 1 or len(rows) == 1]
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for column in shown:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in shown))
        console.print()
        console.table(table)
        console.print(f"\n  table     {folder / 'sweep.csv'}", markup=False, soft_wrap=True)


def sweep_rows(folder: Path) -> list[dict[str, object]]:
    """One row for each run below a folder: its overrides, its status and its metrics."""
    rows = []
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    for job in sorted(numbered, key=lambda path: int(path.name)):
        record = job / "result.json"
        if not record.is_file():
            continue
        result = json.loads(record.read_text(encoding="utf-8"))
        # Interpolations such as ${oc.env:KEY} stay unresolved, because their values may be secret.
        given = OmegaConf.to_container(OmegaConf.load(job / ".hydra" / "overrides.yaml"), resolve=False)
        overrides = [str(override) for override in given] if isinstance(given, list) else []
        row: dict[str, object] = {"run": job.name}
        row |= dict(override.lstrip("+~").split("=", 1) for override in overrides)
        row |= {"status": result["status"], "seconds": result["seconds"]}
        for stage, part in result.get("stages", {"": result}).items():
            row |= {f"{stage}.{name}".lstrip("."): value for name, value in part["metrics"].items()}
        rows.append(row)
    return rows


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)
