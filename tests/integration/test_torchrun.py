"""A run that torchrun has started: a signal leaves a whole folder and a line that goes on with it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TINY, environ, free_port, keep, result_of, run_folder

pytestmark = pytest.mark.slow

TRAIN = str(Path(__file__).parents[2] / "train.py")
MORE = [*keep(TINY, "sft"), "trainer.devices=2", "sft.data.minibatch_size=16", "sft.trainer.max_epochs=60"]


def started(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, cwd=folder, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ranks_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="the processes of torchrun are found in /proc")
@pytest.mark.parametrize(
    ("strategy", "to_torchrun", "number"),
    # A terminal sends Ctrl-C to torchrun, which passes it on. A rank that gets a signal stops the others.
    [("ddp", True, signal.SIGINT), ("fsdp2", False, signal.SIGTERM)],
)
def test_a_run_of_torchrun_that_a_signal_stops_goes_on_with_the_line_that_it_prints(
    strategy: str, to_torchrun: bool, number: int, tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    process = started(tmp_path, [*torchrun, TRAIN, *MORE, f"strategy={strategy}"])
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("outputs/sft/*/checkpoints/last.ckpt")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ranks = ranks_of(process.pid)
        os.kill(process.pid if to_torchrun else ranks[1], number)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert len(ranks) == 2
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    folder = run_folder(tmp_path)
    assert result_of(folder)["status"] == "interrupted"
    assert (folder / "report.html").is_file()
    # Only the first rank speaks, and no rank was killed; torchrun adds a traceback of its own.
    (line,) = [line for line in said.splitlines() if line.startswith("interrupted")]
    assert said.count("Traceback") == 1
    assert "forcefully exiting" not in said
    words = shlex.split(line.partition("resume with: ")[2])
    assert words == [Path(sys.executable).name, *torchrun[1:], TRAIN, f"resume={folder}"]

    rest = started(tmp_path, [sys.executable, *words[1:], "sft.trainer.max_epochs=2"])
    try:
        said, _ = rest.communicate(timeout=300)
    finally:
        rest.kill()
    assert rest.returncode == 0, said
    assert run_folder(tmp_path) == folder
    assert result_of(folder)["status"] == "finished"
