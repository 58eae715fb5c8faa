"""`train resume=RUN` after real signals: in the same folder, with the numbers of an uninterrupted run."""

import csv
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from support import TINY, command, environ, keep, result_of, run_folder

SFT = [*keep(TINY, "sft"), "sft.trainer.max_epochs=4"]


def stopped(
    folder: Path, number: int, ready: Callable[[], object], *overrides: str
) -> subprocess.CompletedProcess[str]:
    """A run that gets a signal as soon as it is ready."""
    process = warm.start(["-m", "lightning_rlhf.cli", "train", *overrides], cwd=folder, env=environ())
    try:
        deadline = time.monotonic() + 300
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, number)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(overrides, process.returncode, stdout, stderr)


def continued(folder: Path, stderr: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The command that the last line names, as a shell reads it."""
    line = stderr.strip().splitlines()[-1].partition("interrupted; resume with: ")[2]
    program, name, *words = shlex.split(line)
    assert (program, name) == ("lightning-rlhf", "train")
    return command(folder, *words, *more)


def timeless(folder: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` without what a clock or the machine says."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def test_a_run_that_goes_on_alone_leaves_what_an_uninterrupted_one_leaves(tmp_path: Path) -> None:
    # The second name has what the shell and Hydra read in their own way.
    first_place, place = tmp_path / "whole", tmp_path / "a run (x), y=z"
    for folder in (first_place, place):
        folder.mkdir()
    done = command(first_place, *SFT)
    assert done.returncode == 0, done.stderr
    whole = run_folder(first_place)
    first = stopped(place, signal.SIGTERM, lambda: list(place.rglob("last.ckpt")), *SFT)
    assert first.returncode == 143, first.stderr
    assert "Traceback" not in first.stderr
    folder = run_folder(place)
    assert result_of(folder)["status"] == "interrupted"
    assert "interrupted" in (folder / "report.html").read_text()
    rest = continued(place, first.stderr)
    assert rest.returncode == 0, rest.stderr
    assert list(place.glob("outputs/*/*")) == [folder]
    assert timeless(folder) == timeless(whole)
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    for key in ("status", "metrics", "alarms"):
        assert result_of(folder)[key] == result_of(whole)[key]


def test_a_closed_terminal_before_the_first_step_leaves_a_run_that_begins_again(tmp_path: Path) -> None:
    overrides = [*SFT, "seed=3"]
    first = stopped(tmp_path, signal.SIGHUP, lambda: list(tmp_path.rglob("overrides.yaml")), *overrides)
    assert first.returncode == 129, first.stderr
    folder = run_folder(tmp_path)
    assert (result_of(folder)["status"], result_of(folder)["seed"]) == ("interrupted", 3)
    assert (folder / "report.html").is_file()
    # What is refused changes nothing in the folder.
    refused = continued(tmp_path, first.stderr, "stage=ppo")
    assert refused.returncode == 2
    assert "stages=['ppo'] was ['sft']" in refused.stderr
    rest = continued(tmp_path, first.stderr, "+sft.trainer.limit_val_batches=1")
    assert rest.returncode == 0, rest.stderr
    assert "sft from its beginning, since it has no checkpoint yet" in rest.stdout
    assert "sft.trainer.limit_val_batches: none → 1" in rest.stdout
    assert run_folder(tmp_path) == folder
    assert result_of(folder)["status"] == "finished"


@pytest.mark.slow
def test_every_rank_of_a_later_stage_ends_when_the_first_one_is_told_to_stop(tmp_path: Path) -> None:
    overrides = [*(word for word in TINY if "reward_model" not in word), "stage=sft_ppo", "reward=gold"]
    overrides += ["strategy=ddp", "trainer.devices=2"]
    endless = ["ppo.trainer.max_epochs=500", "ppo.trainer.check_val_every_n_epoch=500"]
    ready = lambda: list(tmp_path.rglob("ppo/checkpoints/last.ckpt"))  # noqa: E731
    first = stopped(tmp_path, signal.SIGTERM, ready, *overrides, *endless)
    # The first process has not been killed because the other one had ended.
    assert first.returncode == 143, first.stderr
    assert "Traceback" not in first.stderr
    folder = run_folder(tmp_path)
    assert result_of(folder)["status"] == result_of(folder / "ppo")["status"] == "interrupted"
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if os.access(file, os.R_OK)]
    assert not [words for words in commands if str(folder).encode() in words]
    rest = continued(tmp_path, first.stderr, "+ppo.trainer.max_time=00:00:00:01")
    assert rest.returncode == 0, rest.stderr
    assert "ppo from its newest checkpoint" in rest.stdout
