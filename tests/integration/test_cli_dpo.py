"""DPO on the command line, alone and after SFT."""

import csv
import json
import math
from pathlib import Path

import pytest
from support import TINY, TINY_DPO, command, keep, result_of, run_folder
from transformers import AutoModelForCausalLM

OVERRIDES = [*TINY, *TINY_DPO]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of SFT and DPO, and its output."""
    folder = tmp_path_factory.mktemp("pipeline_dpo")
    done = command(folder, *keep(OVERRIDES, "pipeline_dpo"))
    assert done.returncode == 0, done.stderr
    return run_folder(folder), done.stdout + done.stderr


def test_the_pipeline_ends_with_the_model_of_dpo(pipeline: tuple[Path, str]) -> None:
    folder, printed = pipeline
    result = result_of(folder)
    assert result["status"] == "finished"
    assert list(result["stages"]) == ["sft", "dpo"]
    assert result["model_dir"] == str(folder / "dpo" / "model")
    AutoModelForCausalLM.from_pretrained(result["model_dir"])
    assert result["stages"]["dpo"]["metrics"].keys() >= {
        "loss",
        "reward_accuracy",
        "longer_wins_accuracy",
        "shorter_wins_accuracy",
        "reward_margin",
        "chosen_reward",
        "rejected_reward",
        "chosen_logprob",
        "kl",
        "gold_rate",
        "gold_win_rate",
        "response_length",
        "eos_rate",
    }
    assert f"{folder}/report.html" in printed
    assert "Warning" not in printed


def test_dpo_starts_from_the_export_of_sft_as_actor_and_as_reference(pipeline: tuple[Path, str]) -> None:
    folder, _ = pipeline
    with (folder / "dpo" / "metrics.csv").open() as file:
        before = next(row for row in csv.DictReader(file) if row["epoch"] == "-1")
    assert float(before["val/loss"]) == pytest.approx(math.log(2), rel=1e-6)
    assert float(before["val/kl"]) == float(before["val/reward_margin"]) == 0
    sft = result_of(folder)["stages"]["sft"]["metrics"]
    assert float(before["val/gold_rate"]) == pytest.approx(sft["gold_rate"])
    assert float(before["val/response_length"]) == pytest.approx(sft["response_length"])
    rows = [json.loads(line) for line in (folder / "dpo" / "samples.jsonl").read_text().splitlines()]
    assert {(row["phase"], row["iteration"]) for row in rows} == {("evaluation", 0), ("evaluation", 1)}


@pytest.mark.slow
def test_dpo_alone_on_two_processes_gives_the_numbers_of_the_pipeline(
    pipeline: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = pipeline
    start = [f"model.pretrained={folder}/sft/model"]
    done = command(tmp_path, *keep(OVERRIDES, "dpo"), *start, "strategy=ddp", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    one, two = result_of(folder / "dpo")["metrics"], result_of(run_folder(tmp_path))["metrics"]
    assert two == pytest.approx(one, rel=1e-3, abs=1e-4)
