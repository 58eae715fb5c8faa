"""The numbers, samples and pictures of a run for a notebook."""

import math
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from lightning_rlhf import RunStats
from lightning_rlhf.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    losses: list[dict[str, Any]] = [{"epoch": 0, "step": i, "train/loss": 3.0 - i} for i in range(3)]
    ppo: list[dict[str, Any]] = [{"epoch": -1, "step": 0, "val/score": 0.5}]
    ppo += [{"epoch": i, "step": 4 * i + 3, "val/score": 0.5 + i, "rollout/kl": 0.1 * i} for i in range(2)]
    answer = {"iteration": 1, "phase": "evaluation", "row": 7, "prompt": "p", "response": "r", "score": 2.5, "kl": 1.0}
    write_run(tmp_path / "sft", "sft", rows=losses)
    write_run(tmp_path / "ppo", "ppo", rows=ppo, samples=[{**answer, "length": 3, "gold": 1.0}])
    return tmp_path


def test_metrics_are_at_the_time_to_which_they_belong(run: Path) -> None:
    frame = RunStats.load(run).metrics()
    assert list(frame.columns) == ["stage", "time", "rollout/kl", "train/loss", "val/score"]
    sft, ppo = (frame[frame.stage == name].set_index("time") for name in ("sft", "ppo"))
    # Lightning counts from 0, and a value belongs to the state after its step, or after its iteration of PPO.
    assert sft["train/loss"].to_dict() == {1.0: 3.0, 2.0: 2.0, 3.0: 1.0}
    assert ppo["val/score"].to_dict() == {0.0: 0.5, 1.0: 0.5, 2.0: 1.5}
    assert math.isnan(ppo["rollout/kl"][0.0])
    assert ppo["rollout/kl"][2.0] == 0.1


def test_a_notebook_shows_a_run_as_one_line(run: Path) -> None:
    assert repr(RunStats.load(run)) == f"RunStats of {run}: SFT, PPO; unfinished; 1 sample"


def test_samples_are_rows_with_their_stage_and_scores(run: Path) -> None:
    frame = RunStats.load(str(run)).samples()
    (row,) = frame.to_dict("records")
    assert (row["stage"], row["row"], row["response"]) == ("ppo", 7, "r")
    assert (row["score"], row["kl"], row["length"], row["gold"]) == (2.5, 1.0, 3.0, 1.0)
    assert row["messages"] == (("user", "p"),)


def test_a_run_without_samples_gives_an_empty_frame_with_all_columns(tmp_path: Path) -> None:
    frame = RunStats.load(tmp_path).samples()
    assert frame.empty
    assert {"stage", "response", "score"} <= set(frame.columns)
    assert RunStats.load(tmp_path).metrics().columns.tolist() == ["stage", "time"]


def test_a_plot_draws_the_values_that_were_logged(run: Path) -> None:
    (axes,) = RunStats.load(run).plot(["val/score"]).axes
    assert axes.get_title(loc="left") == "val/score, PPO"
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0.0, 1.0, 2.0]
    assert line.get_ydata().tolist() == [0.5, 0.5, 1.5]


def test_the_plot_of_a_run_has_the_pictures_of_its_card(run: Path) -> None:
    titles = [axes.get_title(loc="left") for axes in RunStats.load(run).plot().axes]
    assert titles[0] == "Loss, SFT (nats per token)"
    assert "KL to the start model, PPO (nats per response)" in titles


def test_a_notebook_gets_a_png_of_a_plot(run: Path) -> None:
    assert RunStats.load(run).plot()._repr_png_().startswith(b"\x89PNG")


def test_a_metric_that_was_never_logged_is_refused_with_those_that_were(run: Path) -> None:
    with pytest.raises(UserError, match="metrics: val/scores has no finite value .* rollout/kl, train/loss, val/score"):
        RunStats.load(run).plot(["val/scores"])


def test_a_run_that_has_logged_nothing_cannot_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        RunStats.load(tmp_path).plot()
