"""A lack of memory is told as such, with what was planned and what the system says."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_rlhf.distributed import lack_of_memory
from lightning_rlhf.distributed.lack_of_memory import count_kills_from_here, killed, kills, ran_out, remember_plan


@pytest.fixture(autouse=True)
def plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lack_of_memory, "_planned", [])
    monkeypatch.setattr(lack_of_memory, "_kills_at_start", [])


def system(folder: Path, count: int) -> Path:
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc" / "vmstat").write_text(f"nr_free_pages 12\noom_kill {count}\nthp_split 3\n")
    return folder


def test_kills_since_the_run_began_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kills(tmp_path) == []
    assert killed(tmp_path).startswith("perhaps the system has killed it for lack of memory; smaller micro-batches")
    before = kills(system(tmp_path, 7))
    assert before == [7]
    monkeypatch.setattr(lack_of_memory, "_kills_at_start", before)
    assert killed(tmp_path).startswith("perhaps")
    remember_plan("a peak of 9.5 GiB of tensors on each device")
    assert killed(system(tmp_path, 8)).startswith(
        "since this run began, the system has killed a process of this machine for lack of memory; "
        "a peak of 9.5 GiB of tensors on each device was planned; smaller micro-batches need less"
    )
    assert "has killed 3 processes" in killed(system(tmp_path, 10))


def test_this_machine_tells_its_kills_or_nothing() -> None:
    count_kills_from_here()
    assert len(lack_of_memory._kills_at_start) <= 1


def test_errors_of_allocators_are_recognised() -> None:
    def raised_from(error: BaseException) -> BaseException:
        outer = RuntimeError("a stage failed")
        outer.__cause__ = error
        return outer

    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ):
        for found in (ran_out(error), ran_out(raised_from(error))):
            assert found is not None
            assert found.startswith("the memory is not enough (")
            assert "more" not in found
    assert ran_out(RuntimeError("shapes differ")) is None
    assert ran_out(OSError(errno.ENOENT, "no file")) is None


def test_a_process_under_a_limit_of_memory_ends_with_one_message_and_code_2(tmp_path: Path) -> None:
    code = """if True:
        import resource, torch
        from lightning_rlhf.cli.app import exit_codes
        from lightning_rlhf.distributed.lack_of_memory import remember_plan
        remember_plan("a peak of 64.0 GiB of tensors on each device")
        own = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + 2**28, own + 2**28))
        with exit_codes():
            torch.ones(2**30)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the memory is not enough (")
    assert "a peak of 64.0 GiB of tensors on each device was planned; smaller micro-batches need less" in done.stderr
    assert "Traceback" not in done.stderr
