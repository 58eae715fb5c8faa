"""A rank whose launcher is killed ends by itself."""

import os
import signal
import subprocess
import sys

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
