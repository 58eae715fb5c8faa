"""Processes of one run agree on when it started, and a run that did not begin leaves no folder."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from support import free_port

from lightning_rlhf.assembly import run_folder as launched
from lightning_rlhf.assembly.run_folder import accounted_for
from lightning_rlhf.errors import UserError
from lightning_rlhf.interruption import Interrupted


def _agree(rank: int, environment: dict[str, str], names: dict[str, str]) -> None:
    os.environ |= environment | {name: str(rank) for name in names}
    launched.time.strftime = lambda pattern: f"2026-01-01_00-00-0{rank}"  # type: ignore[attr-defined,assignment]
    sys.exit(0 if launched.agreed_time() == "2026-01-01_00-00-00" else 1)


def test_processes_of_torchrun_take_the_time_of_the_first() -> None:
    shared = {
        "TORCHELASTIC_RUN_ID": "run",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    mp.spawn(_agree, (shared, {"RANK": "", "LOCAL_RANK": ""}), nprocs=2)


def test_tasks_of_slurm_take_the_time_of_the_first() -> None:
    # Lightning derives the port from the number of the job, and it is above 15000.
    job = free_port() % 1000
    shared = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": str(job),
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
    }
    mp.spawn(_agree, (shared, {"SLURM_PROCID": "", "SLURM_LOCALID": ""}), nprocs=2)


@pytest.mark.parametrize("port", [15000, 15001, 24999, 29500, 55535, 55536, 65535])
def test_the_meeting_place_is_no_port_of_another_job(port: int) -> None:
    """The port of a job is 15000 plus the last four digits of its number; users may set any other."""
    own = launched._free_of_jobs(port)
    assert own != port
    assert own not in range(15000, 25000) or port not in range(15000, 25000)
    assert 1024 < own < 2**16


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_a_single_process_keeps_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert launched.agreed_time() is None


def failed(folder: Path, *names: str, keep: bool = False) -> dict | None:
    """The `result.json` that is left in a folder with these files after an error; None if the folder is gone."""
    (folder / ".hydra").mkdir(parents=True)
    for name in names:
        (folder / name).write_text('{"status": "failed"}')
    with pytest.raises(UserError), accounted_for(folder, ["sft"], keep=keep):
        raise UserError("data.path is not set")
    return json.loads((folder / "result.json").read_text()) if folder.exists() else None


def test_an_error_before_the_run_began_leaves_no_folder(tmp_path: Path) -> None:
    assert failed(tmp_path / "run") is None
    assert failed(tmp_path / "logged", "train.log") is None


def test_a_folder_that_stays_says_that_the_run_failed_and_why(tmp_path: Path) -> None:
    for name, others, keep in [("sweep", [], True), ("begun", ["config.yaml"], False), ("mine", ["notes.txt"], False)]:
        record = failed(tmp_path / name, *others, keep=keep)
        assert record is not None
        assert (record["stage"], record["status"], record["error"]) == ("sft", "failed", "data.path is not set")


def interrupted(folder: Path, *names: str) -> dict | None:
    """The `result.json` that Ctrl-C leaves in a folder with these files; None if there is none."""
    (folder / ".hydra").mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    with pytest.raises(Interrupted), accounted_for(folder, ["benchmark"]):
        raise Interrupted(signal.SIGINT)
    file = folder / "result.json"
    return json.loads(file.read_text()) if file.exists() else None


def test_ctrl_c_leaves_no_folder_without_a_result(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "early") is None
    assert not (tmp_path / "early").exists()
    record = interrupted(tmp_path / "late", "notes.txt")
    assert record is not None
    assert (record["stage"], record["status"]) == ("benchmark", "interrupted")


def test_a_later_rank_leaves_the_folder_of_an_interrupted_run_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    for name, files in [("early", []), ("late", ["notes.txt"])]:
        assert interrupted(tmp_path / name, *files) is None
        assert (tmp_path / name).exists()


def test_the_result_of_a_run_that_began_stays(tmp_path: Path) -> None:
    assert failed(tmp_path / "run", "result.json") == {"status": "failed"}


def test_a_run_without_an_error_keeps_its_folder(tmp_path: Path) -> None:
    with accounted_for(tmp_path, ["sft"]):
        pass
    assert tmp_path.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("parent", "stays"), [("outputs/sft", False), ("mine", True)])
def test_an_early_error_leaves_no_empty_folder_of_its_stage(
    parent: str, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / parent / "run"
    (folder / ".hydra").mkdir(parents=True)
    with pytest.raises(UserError), accounted_for(folder, ["sft"]):
        raise UserError("early")
    assert not folder.exists()
    assert folder.parent.exists() is stays
    assert (tmp_path / "outputs").exists() is False
