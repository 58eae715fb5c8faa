"""Planned memory against measured memory."""

import json
from pathlib import Path

from run_folders import write_run

from lightning_rlhf.report.memory import memory
from lightning_rlhf.report.read import read_run

GIB = 2**30


def planned(folder: Path, peak: float, **phases: float) -> None:
    sizes = {name: {"bytes": size * GIB} for name, size in phases.items()}
    (folder / "plan.json").write_text(json.dumps({"peak_bytes_per_device": peak * GIB, "phases": sizes}))


def test_each_phase_is_shown_with_the_peak_that_was_planned_and_measured(tmp_path: Path) -> None:
    write_run(tmp_path / "sft", "sft", peak_bytes=3 * GIB, peak_of="tensors")
    write_run(tmp_path / "ppo", peak_bytes=6 * GIB, peak_of="tensors")
    planned(tmp_path / "sft", 2.5, load=0.5, update=2.5)
    planned(tmp_path / "ppo", 8, load=1, rollout=4, update=8)
    table = memory(read_run(tmp_path))
    assert table.columns == ("Stage", "Load", "Update", "Rollout", "Planned peak", "Measured", "Of the plan")
    assert table.rows == (
        ("Supervised fine-tuning", "0.50 GiB", "2.50 GiB", "", "2.50 GiB", "3.00 GiB", "120%"),
        ("PPO", "1.00 GiB", "8.00 GiB", "4.00 GiB", "8.00 GiB", "6.00 GiB", "75%"),
    )


def test_the_memory_of_a_whole_process_is_not_compared_with_a_plan_of_tensors(tmp_path: Path) -> None:
    write_run(tmp_path, peak_bytes=3 * GIB, peak_of="whole process")
    planned(tmp_path, 2, update=2)
    table = memory(read_run(tmp_path))
    assert table.columns == ("Stage", "Update", "Planned peak", "Measured")
    assert table.rows == (("PPO", "2.00 GiB", "2.00 GiB", "3.00 GiB (whole process)"),)


def test_a_stage_without_a_plan_or_without_a_measurement_has_no_row(tmp_path: Path) -> None:
    write_run(tmp_path / "sft", "sft", peak_bytes=GIB)
    write_run(tmp_path / "ppo")
    planned(tmp_path / "ppo", 2, update=2)
    assert memory(read_run(tmp_path)).rows == ()
