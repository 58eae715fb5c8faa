"""The processes of a run agree on the time at which it started."""

import os
import sys

import pytest
import torch.multiprocessing as mp
from support import free_port

from lightning_rlhf.assembly import run_folder as launched


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
