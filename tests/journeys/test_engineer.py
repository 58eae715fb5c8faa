"""An infrastructure engineer, who wants to know what a run costs, tries it, stops it, and lets others continue it."""

import csv
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
import warm
from support import TINY, command, environ, keep, result_of, run_folder

pytestmark = pytest.mark.slow

SFT = [*keep(TINY, "sft"), "sft.trainer.max_epochs=4"]


def test_from_a_plan_to_a_run_that_was_stopped_and_goes_on(tmp_path: Path) -> None:
    version = command(tmp_path, name="--version")
    assert version.returncode == 0
    assert "torch" in version.stdout

    # A plan of a large model needs lengths, and says which ones it takes.
    large = ["model=llama/13b", "stage=sft", "trainer=gpu", "trainer.devices=8", "strategy=fsdp2", "experiment=none"]
    refused = command(tmp_path, *large, name="plan")
    assert refused.returncode == 2
    assert "prompt_length" in refused.stderr
    planned = command(tmp_path, *large, "prompt_length=512", "response_length=512", "device_memory=80GB", name="plan")
    assert planned.returncode == 0, planned.stderr
    lengths = "prompts of 512 tokens and responses of 512 (prompt_length, response_length)"
    assert f"planned with {lengths}" in " ".join(planned.stdout.split())
    assert "FLOP/s" in planned.stdout

    # A dry run leaves nothing.
    before = set(tmp_path.rglob("*"))
    tried = command(tmp_path, *SFT, "dry_run=true")
    assert tried.returncode == 0, tried.stderr
    left = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert left == set()

    # Ctrl-C leaves a record, a card and the line that continues the run in its folder.
    process = warm.start(["-m", "lightning_rlhf.cli", "train", *SFT], cwd=tmp_path, env=environ())
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("outputs/sft/*/checkpoints/last.ckpt")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    run = run_folder(tmp_path)
    assert result_of(run)["status"] == "interrupted"
    assert (run / "report.html").is_file()
    words = shlex.split(stderr.strip().splitlines()[-1].partition("resume with: ")[2])
    assert words[:2] == ["lightning-rlhf", "train"]
    rest = command(tmp_path, *words[2:])
    assert rest.returncode == 0, rest.stderr
    assert run_folder(tmp_path) == run
    assert result_of(run)["status"] == "finished"
    again = command(tmp_path, *words[2:])
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stdout + again.stderr


def test_a_sweep_in_which_a_job_diverges_leaves_its_table(tmp_path: Path) -> None:
    settings = [*keep(TINY, "sft"), "sft.module.lr=1e-3,1e30", "callbacks.health.skip_steps=0"]
    done = command(tmp_path, "-m", *settings, "ppo.module.lr=1e-5")
    assert done.returncode != 0
    assert "ppo.module.lr" in done.stderr  # the note about a stage that does not run
    (table,) = tmp_path.rglob("sweep.csv")
    with table.open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished", "diverged"]
