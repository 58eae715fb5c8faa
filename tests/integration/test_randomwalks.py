"""`experiment=randomwalks` as a user runs it, with a smaller model and a few steps."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from support import command, result_of, run_folder

FEW = [
    "experiment=randomwalks",
    "model.config.n_layer=1",
    "model.config.n_embd=24",
    "model.config.n_head=2",
    "sft.trainer.max_epochs=1",
    "sft.trainer.check_val_every_n_epoch=1",
    "+sft.trainer.limit_train_batches=4",
    "ppo.module.rollout_batch_size=64",
    "ppo.trainer.max_epochs=2",
    "ppo.trainer.check_val_every_n_epoch=1",
    "data.write.answers_per_start=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on another graph than the published one."""
    folder = tmp_path_factory.mktemp("run")
    done = command(folder, *FEW, "data.graph.seed=7", "data.graph.num_nodes=30")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("optimality 0.") == 2
    return run_folder(folder)


def test_both_stages_say_how_near_the_walks_come_to_the_shortest(run: Path) -> None:
    result = result_of(run)
    assert list(result["stages"]) == ["sft", "ppo"]
    assert result["model_dir"] == str(run / "ppo" / "model")
    for stage in ("sft", "ppo"):
        assert 0 <= result["stages"][stage]["metrics"]["optimality"] < 1
    with (run / "ppo" / "metrics.csv").open() as file:
        curve = [row["val/optimality"] for row in csv.DictReader(file) if row["val/optimality"]]
    # The curve has a value before the first iteration and after each one.
    assert len(curve) == 3
    assert float(curve[-1]) == pytest.approx(result["stages"]["ppo"]["metrics"]["optimality"])


def test_the_graph_of_the_command_line_is_the_one_that_is_walked(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "ppo" / "samples.jsonl").read_text().splitlines()]
    # There are 30 nodes, a to z and then A to D. Each is asked twice, except the goal and one that does not reach it.
    assert {row["prompt"] for row in rows if row["phase"] == "evaluation"} <= set("bcdefghijklmnopqrstuvwxyzABCD")
    assert sum(row["phase"] == "evaluation" and row["iteration"] == 0 for row in rows) == 58


def test_a_run_that_was_stopped_in_ppo_goes_on_there(run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    record = run / "ppo" / "result.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "interrupted"}))
    more = ["data.graph.seed=7", "data.graph.num_nodes=30", "ppo.trainer.max_epochs=3", f"resume={run}"]
    done = command(tmp_path, *FEW, *more)
    assert done.returncode == 0, done.stderr
    sft = result_of(run)["stages"]["sft"]
    assert sft["model_dir"] == str(run / "sft" / "model")
    with (run / "ppo" / "metrics.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file) if row["rollout/score_mean"]} == {"0", "1", "2"}


def test_a_graph_that_is_too_large_is_one_message(tmp_path: Path) -> None:
    done = command(tmp_path, *FEW, "data.graph.num_nodes=63")
    assert (done.returncode, done.stderr.strip()) == (2, "error: num_nodes=63: must lie in [2, 62]")
