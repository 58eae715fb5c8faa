"""`lightning-rlhf plan` as a user runs it, and its number against what a run really takes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import TINY, command, environ, keep, result_of, run_folder

ROOT = Path(__file__).parents[2]


def plan(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs `lightning-rlhf plan` in a folder."""
    return command(folder, *overrides, name="plan")


def test_the_plan_of_a_large_model_comes_without_its_weights(tmp_path: Path) -> None:
    model = ["model=llama/65b", "strategy=deepspeed_zero3_offload", "trainer.devices=8", "trainer.num_nodes=4"]
    done = plan(tmp_path, *model, "trainer=gpu", "stage=ppo", "experiment=none", "device_memory=80GB")
    assert done.returncode == 0, done.stderr
    result = result_of(run_folder(tmp_path))
    assert result["fits"] is False
    assert result["peak_bytes_per_device"] > 80e9
    assert result["plans"]["ppo"]["remedy"]
    assert set(result["plans"]["ppo"]["phases"]) == {"load", "rollout", "scoring", "update", "export"}


def test_a_size_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    done = plan(tmp_path, "model=tiny", "device_memory=much")
    assert done.returncode == 2
    assert "device_memory=much: expected a size" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_says_its_plan_and_shows_it_on_the_run_card(tmp_path: Path) -> None:
    done = command(tmp_path, *keep(TINY, "sft"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"planned peak: [\d.]+ MiB", done.stdout)
    folder = run_folder(tmp_path)
    assert json.loads((folder / "plan.json").read_text())["peak_bytes_per_device"] > 0
    assert ">Planned<" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("nets", ["lora", "shared"])
def test_a_plan_is_within_a_tenth_of_what_a_run_takes(nets: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "plan_accuracy.py", "opt", nets, "single"],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    largest = re.search(r"Largest difference ([\d.]+)%", done.stdout)
    assert largest is not None
    assert float(largest[1]) <= 10
