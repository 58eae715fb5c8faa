"""What loggers are told about a run."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.loggers import folders_of_run, logger_settings


def config(run_dir: Path, *stages: str, **more: Any) -> DictConfig:
    given: dict[str, object] = {
        "run_dir": str(run_dir),
        "stages": list(stages),
        "resume": None,
        "logger": {"wandb": {}},
    }
    return OmegaConf.create(given | more)


def job_of_sweep(folder: Path) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "hydra.yaml").write_text("hydra:\n  mode: MULTIRUN\n")
    return folder


def test_a_run_is_named_after_its_stage_and_folder(tmp_path: Path) -> None:
    settings = logger_settings(config(tmp_path / "sft" / "monday", "sft"), "sft")
    assert settings["wandb"] == {"name": "sft-monday", "job_type": "sft"}
    assert settings["tensorboard"] == {"version": "sft-monday"}


def test_the_stages_of_a_pipeline_are_a_group(tmp_path: Path) -> None:
    settings = logger_settings(config(tmp_path / "monday" / "ppo", "sft", "ppo"), "ppo")
    assert settings["wandb"] == {"name": "ppo-monday", "group": "monday", "job_type": "ppo"}


@pytest.mark.parametrize("stages", [("sft",), ("sft", "ppo")])
def test_all_runs_of_a_sweep_are_a_group(stages: tuple[str, ...], tmp_path: Path) -> None:
    job = job_of_sweep(tmp_path / "monday" / "3")
    settings = logger_settings(config(job if len(stages) == 1 else job / "sft", *stages), "sft")
    assert settings["wandb"] == {"name": "sft-monday-3", "group": "monday", "job_type": "sft"}


def test_what_the_user_has_named_stays(tmp_path: Path) -> None:
    given = {"wandb": {"name": "mine", "group": "ours", "id": None}}
    settings = logger_settings(config(tmp_path / "monday" / "ppo", "sft", "ppo", logger=given), "ppo")
    assert settings["wandb"] == {"job_type": "ppo"}


@pytest.mark.parametrize("resume", ["first", "first/checkpoints/last.ckpt"])
def test_a_resumed_run_goes_on_in_its_run_of_wandb(resume: str, tmp_path: Path) -> None:
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    for name in (
        "run-20261130_090000-older000",
        "offline-run-20261130_100000-newer-run",
        "run-20261129_110000-oldest00",
    ):
        (tmp_path / "first" / "wandb" / name).mkdir(parents=True)
    settings = logger_settings(config(tmp_path / "second", "sft", resume=str(tmp_path / resume)), "sft")
    assert settings["wandb"]["id"] == "newer-run"


def test_a_stage_that_begins_anew_gets_a_new_run(tmp_path: Path) -> None:
    # It was stopped before its first checkpoint.
    (tmp_path / "first" / "ppo" / "wandb" / "run-20261130_090000-abcd1234").mkdir(parents=True)
    resumed = config(tmp_path / "second" / "ppo", "sft", "ppo", resume=str(tmp_path / "first"))
    assert "id" not in logger_settings(resumed, "ppo")["wandb"]


def test_all_folders_of_an_offline_run_are_uploaded_together(tmp_path: Path) -> None:
    first, other, second = (
        tmp_path / "my runs" / f"offline-run-20261130_{time}-{name}"
        for time, name in [("090000", "my-run"), ("091000", "another-my-run"), ("100000", "my-run")]
    )
    for folder in (first, other):
        folder.mkdir(parents=True)
    assert shlex.split(f"wandb sync {folders_of_run(first, 'my-run')}")[2:] == [str(first)]
    second.mkdir()
    list_all = f"ls -d {folders_of_run(second, 'my-run')}"
    listed = subprocess.run(["sh", "-c", list_all], capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines() == [str(first), str(second)]


@pytest.mark.parametrize("run_id", ["my run", "a[1]", "a;b", "it's*"])
def test_an_id_may_have_characters_that_mean_something_to_a_shell(run_id: str, tmp_path: Path) -> None:
    folders = [tmp_path / f"offline-run-20261130_09000{number}-{run_id}" for number in (0, 1)]
    for folder in folders:
        folder.mkdir()
    list_all = f"ls -d {folders_of_run(folders[1], run_id)}"
    listed = subprocess.run(["sh", "-c", list_all], capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines() == list(map(str, folders))
