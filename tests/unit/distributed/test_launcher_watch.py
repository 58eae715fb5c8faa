"""Ranks end together with the process that has launched them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from lightning_rlhf.distributed.launcher_watch import end_ranks, launched_by_lightning

RANK = "from lightning_rlhf.distributed.launcher_watch import end_with_launcher\nend_with_launcher()\nimport time\n"
LAUNCHER = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_rank_ends_when_its_launcher_is_killed() -> None:
    # The rank prints that it runs, and would then sleep for a minute.
    code = RANK + "print('up', flush=True); time.sleep(60)"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, code],
        env={**os.environ, "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "up\n"
    launcher.send_signal(signal.SIGKILL)
    # The pipes close when the rank has ended too.
    _, said = launcher.communicate(timeout=30)
    assert "the process that started rank 1 has ended, so it ends too" in said


def test_a_process_that_is_no_rank_outlives_who_started_it() -> None:
    code = RANK + "import threading; print(threading.active_count())"
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_an_interrupted_rank_waits_for_its_launcher_and_ends_without_a_word() -> None:
    code = RANK + "from lightning_rlhf.distributed.launcher_watch import wait_for_launcher\n"
    code += "print('up', flush=True); wait_for_launcher()"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, code],
        env={**os.environ, "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "up\n"
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGKILL)
    assert launcher.communicate(timeout=30) == ("", "")


def test_a_launcher_that_ends_its_ranks_is_not_killed_for_it() -> None:
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    # Lightning's thread kills this process when a rank has ended with an error.
    observer = _ChildProcessObserver(child_processes=[rank], main_pid=os.getpid(), sleep_period=1)
    observer.start()
    end_ranks()
    assert rank.wait(timeout=30) == -signal.SIGKILL
    observer.join(timeout=30)
    assert observer not in threading.enumerate()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}, False),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "1"}, False),
    ],
)
def test_lightning_launches_all_ranks_of_a_machine_but_the_first(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_by_lightning() is expected


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much processor time a process has used")
def test_a_rank_in_an_exchange_that_never_ends_is_stopped_by_a_signal() -> None:
    # A mutex that its holder takes again blocks in a single instruction of C, which no signal handler ends.
    code = "import ctypes; lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
    code += "from lightning_rlhf.distributed.launcher_watch import end_with_launcher, obey_signals\n"
    code += "end_with_launcher(); obey_signals(); print('up', flush=True); lock(mutex); lock(mutex)"
    environment = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "trial"}
    rank = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "up\n"
    # It is in the instruction of C when it uses no more processor time. Before, Python's own handler would end it.
    used: list[str] = []
    while used != (used := Path(f"/proc/{rank.pid}/stat").read_text().split()[13:15]):
        time.sleep(0.5)
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(timeout=30) == 143


def test_a_rank_that_was_killed_is_told_before_the_launcher_is_killed_too() -> None:
    code = """if True:
        import subprocess, sys, time
        from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
        from lightning_rlhf.distributed.lack_of_memory import remember_plan
        from lightning_rlhf.distributed.launcher_watch import tell_of_killed_ranks
        import os
        remember_plan("a peak of 3.0 GiB of tensors on each device")
        rank = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
        _ChildProcessObserver(os.getpid(), [rank], sleep_period=1).start()
        tell_of_killed_ranks()
        time.sleep(30)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "error: rank 1 was ended by signal 9: " in done.stderr
    assert "lack of memory; a peak of 3.0 GiB of tensors on each device was planned; smaller micro-b" in done.stderr
