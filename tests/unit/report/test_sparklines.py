"""The curves of all metrics."""

from pathlib import Path
from typing import Any

from run_folders import write_run

from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.sparklines import HEIGHT, WIDTH, sparklines


def curves_of(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    run = read_run(write_run(folder, "sft", rows=rows))
    return {curve.name: curve for curve in sparklines(run.stages[0])}


def test_a_curve_goes_from_its_first_to_its_last_value_between_the_lowest_and_the_highest(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "step": step, "train/loss": loss} for step, loss in enumerate((4.0, 1.0, 2.5, 2.5))]
    curve = curves_of(tmp_path, rows)["train/loss"]
    assert (curve.first, curve.last, curve.low, curve.high, curve.points) == ("4", "2.5", "1", "4", 4)
    # Steps 1 to 4 of 4 across 234 units from 3 on; the loss from 41 at its lowest to 3 at its highest.
    assert (WIDTH, HEIGHT) == (240, 44)
    assert curve.path == "M61.5 3L120 41L178.5 22L237 22"


def test_a_value_that_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "step": step, "a": value} for step, value in enumerate((1.0, 2.0, "nan", 1.0, 2.0))]
    curve = curves_of(tmp_path, rows)["a"]
    assert curve.path.count("M") == 2
    assert curve.points == 4


def test_a_metric_that_was_logged_once_is_a_dot_and_one_without_a_value_is_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"epoch": 0, "step": 0, "once": 7.0, "never": "nan"}, {"epoch": 0, "step": 1, "b": 1}]
    found = curves_of(tmp_path, rows)
    assert list(found) == ["b", "once"]
    assert found["once"].dot == (120.0, 22.0)
    assert found["once"].last == "7"
