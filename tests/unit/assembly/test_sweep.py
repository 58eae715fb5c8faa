"""The table of a sweep: one row for each run, whatever became of it."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from lightning_rlhf.assembly.job_stages import composer_of
from lightning_rlhf.assembly.sweep import SweepTable, sweep_rows, table_even_of_failures, write_table
from lightning_rlhf.assembly.sweeper import check_jobs, distinct, run_distinct_jobs
from lightning_rlhf.errors import UserError
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


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hydra's own sweeper, which a test may change. Its class is another one before Hydra has loaded its plugins."""
    Plugins.instance()
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    monkeypatch.setattr(BasicSweeper, "split_arguments", BasicSweeper.split_arguments)
    return BasicSweeper


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


@pytest.mark.usefixtures("sweeper")
def test_a_sweep_leaves_its_table_even_if_a_run_fails(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table: Any = SweepTable()
    config: Any = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(sweep))))
    table.on_multirun_start(config)
    with pytest.raises(ValueError, match="of a run"), table_even_of_failures():
        raise ValueError("of a run")
    with (sweep / "sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished", "diverged", "finished", "failed"]
    assert capsys.readouterr().out.count("sweep.csv") == 1
    assert "3 runs" in (sweep / "comparison.html").read_text()


@pytest.mark.usefixtures("sweeper")
def test_a_sweep_prints_its_table_once(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table: Any = SweepTable()
    config: Any = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(sweep))))
    with table_even_of_failures():
        table.on_multirun_start(config)
        table.on_multirun_end(config)
    assert capsys.readouterr().out.count("sweep.csv") == 1


def test_jobs_that_an_interrupted_sweep_did_not_begin_are_in_its_table(sweep: Path) -> None:
    write_table(sweep, [[f"lr={number}"] for number in range(6)])
    with (sweep / "sweep.csv").open() as file:
        rows = [(row["run"], row["lr"], row["status"]) for row in csv.DictReader(file)]
    assert rows[3:] == [("3", "3", "failed"), ("4", "4", "not begun"), ("5", "5", "not begun")]


def test_jobs_that_would_be_the_same_run_once_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    rates = [f"++ppo.module.lr={rate}" for rate in (1, 2)]
    jobs = [[f"stage={stage}", rate, "seed=7"] for stage in ("sft", "ppo") for rate in rates]
    assert distinct(jobs, composer_of([])) == [
        ["stage=sft", "seed=7"],
        *(["stage=ppo", rate, "seed=7"] for rate in rates),
    ]
    assert capsys.readouterr().err.startswith("note: the sweep has 3 runs and not 4, because")


def test_jobs_that_lose_no_overrides_all_run_as_hydra_says(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [["stage=sft", "sft.module.lr=3", f"seed={seed}"] for seed in (1, 1, 2)]
    assert distinct(jobs, composer_of([])) == jobs
    assert capsys.readouterr().err == ""


def test_a_job_has_the_stages_that_its_experiment_chooses(
    sweeper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [override /stage: dpo]\n")
    monkeypatch.setattr(sys, "argv", ["train", "-m", "--config-dir", str(tmp_path)])
    planned: list[list[str]] = []
    run_distinct_jobs(planned, tmp_path)
    swept = ["experiment=mine,none", "++dpo.module.lr=1,2", "++ppo.module.lr=1,2"]
    sweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)
    assert planned == [
        *(["experiment=mine", f"++dpo.module.lr={rate}"] for rate in (1, 2)),
        *(["experiment=none", f"++ppo.module.lr={rate}"] for rate in (1, 2)),
    ]
    assert capsys.readouterr().err.startswith("note: the sweep has 4 runs and not 8, because")


def test_overrides_of_stages_that_no_job_runs_stay_so_that_they_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The stage of a benchmark is PPO, whereas train runs a pipeline if no stage is chosen.
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "-m"])
    jobs = [[f"{block}.module.lr={rate}"] for block in ("dpo", "sft", "ppo") for rate in (1, 2)]
    assert distinct(jobs, composer_of([])) == jobs
    assert capsys.readouterr().err == ""


def test_jobs_that_differ_all_run(sweeper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned: list[list[str]] = []
    run_distinct_jobs(planned, tmp_path)
    words = OverridesParser.create().parse_overrides(["stage=sft", "sft.module.lr=1,2", "seed=1,2"])
    assert [len(batch) for batch in sweeper.split_arguments(words, 3)] == [3, 1]
    assert planned[3] == ["stage=sft", "sft.module.lr=2", "seed=2"]
    assert capsys.readouterr().err == ""


def test_a_sweep_goes_on_in_a_folder_only_with_the_jobs_that_it_has_there(sweep: Path) -> None:
    jobs = [[f"lr={number}"] for number in range(5)]
    check_jobs(sweep, jobs)
    check_jobs(sweep, jobs[2:], first=2)
    with pytest.raises(UserError, match="run 2 there has lr=2, and now would have lr=7: give the same settings"):
        check_jobs(sweep, [["lr=0"], ["lr=1"], ["lr=7"]])
    with pytest.raises(UserError, match="run 1 there has lr=1, and now would have lr=0"):
        check_jobs(sweep, jobs, first=1)


def test_the_printed_table_has_the_settings_that_differ_between_the_runs_that_have_them(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, words in enumerate((["stage=sft"], ["stage=ppo", "a=1", "b=5"], ["stage=ppo", "a=2", "b=5"])):
        OmegaConf.save(words, sweep / f"{number}" / ".hydra" / "overrides.yaml")
    write_table(sweep)
    header = capsys.readouterr().out.split("perplexity")[0].split()
    # All runs that have `b` have the same.
    assert {"stage", "a"} <= set(header)
    assert "b" not in header
