"""Which folders are runs."""

from pathlib import Path

import pytest
from run_folders import write_run

from lightning_rlhf.errors import UserError
from lightning_rlhf.report.comparison.find import find_runs


def test_runs_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "sweeps" / "one" / str(number)) for number in (0, 2, 10)]
    assert find_runs([str(tmp_path)]) == runs


def test_the_stages_of_a_pipeline_are_no_runs_of_their_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "pipeline")
    write_run(run / "sft", "sft")
    write_run(run / "ppo")
    assert find_runs([str(tmp_path)]) == [run]
    assert find_runs([str(run / "ppo")]) == [run / "ppo"]


def test_benchmarks_and_exports_are_no_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ppo")
    for name in ("export", "benchmark", "doctor"):
        write_run(tmp_path / name, name)
    assert find_runs([str(tmp_path)]) == [run]


def test_a_run_that_has_only_begun_to_log_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,0,1.0\n")
    assert find_runs([str(tmp_path)]) == [tmp_path]


def test_a_pattern_stands_for_what_it_matches_and_no_run_counts_twice(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a1", "a2", "b")]
    assert find_runs([f"{tmp_path}/a*"]) == runs[:2]
    assert find_runs([str(runs[2]), str(tmp_path)]) == [runs[2], *runs[:2]]


def test_all_places_that_do_not_exist_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find_runs([f"{tmp_path}/none", str(tmp_path), f"{tmp_path}/x*"])
    assert str(error.value).splitlines() == [
        f"runs={tmp_path}/none: there is no such folder",
        f"runs={tmp_path}/x*: there is no such folder",
    ]
    with pytest.raises(UserError, match="no folder of a run, which holds result.json or metrics.csv, is there"):
        find_runs([str(tmp_path)])
