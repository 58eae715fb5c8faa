"""The table of a sweep: one row for each run, whatever became of it."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from lightning_rlhf.assembly.sweep import SweepTable, sweep_rows, table_even_of_failures
from lightning_rlhf.saving import write_json


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Runs that finished, diverged, finished with a metric that is not finite, and failed before they could begin."""
    results: list[dict[str, Any] | None] = [
        {"status": "finished", "seconds": 2.0, "metrics": {"loss": 1.5, "perplexity": 4.5}},
        {"status": "diverged", "seconds": 1.0, "metrics": {}},
        {"status": "finished", "seconds": 2.0, "metrics": {"loss": 95.0, "perplexity": float("inf")}},
        None,
    ]
    for number, result in enumerate(results):
        (tmp_path / f"{number}" / ".hydra").mkdir(parents=True)
        OmegaConf.save([f"lr={number}"], tmp_path / f"{number}" / ".hydra" / "overrides.yaml")
        if result is not None:
            write_json(tmp_path / f"{number}" / "result.json", result)
    return tmp_path


def test_a_run_that_diverged_or_failed_is_marked(sweep: Path) -> None:
    rows = sweep_rows(sweep)
    assert [(row["lr"], row["status"]) for row in rows] == [
        ("0", "finished"),
        ("1", "diverged"),
        ("2", "finished"),
        ("3", "failed"),
    ]
    assert [row.get("loss") for row in rows] == [1.5, None, 95.0, None]
    # 95 nats are a perplexity above the largest number in fp32, which is e^88.7.
    assert str(rows[2]["perplexity"]) == "nan"


def test_a_sweep_leaves_its_table_even_if_a_run_fails(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table: Any = SweepTable()
    config: Any = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(sweep))))
    table.on_multirun_start(config)
    with pytest.raises(ValueError, match="of a run"), table_even_of_failures():
        raise ValueError("of a run")
    with (sweep / "sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished", "diverged", "finished", "failed"]
    assert capsys.readouterr().out.count("sweep.csv") == 1


def test_a_sweep_prints_its_table_once(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table: Any = SweepTable()
    config: Any = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(sweep))))
    with table_even_of_failures():
        table.on_multirun_start(config)
        table.on_multirun_end(config)
    assert capsys.readouterr().out.count("sweep.csv") == 1
