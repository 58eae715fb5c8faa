"""A run on a small disk of its own, which is full or may not be written. Mounting it needs root."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import TINY, command, keep, result_of

SFT = keep(TINY, "sft")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB, which has room for four checkpoints of a tiny model."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_how_much_is_needed(disk: Path) -> None:
    done = command(disk, *SFT, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "the disk has" not in done.stderr
    last = disk / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "other").write_bytes(b"1" * (free - 300_000))
    done = command(disk, "resume=run", "sft.trainer.max_epochs=2")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    # Before the first step, and when the checkpoint is due.
    assert "and the checkpoints of this run take at least" in done.stderr
    assert f"error: {last}: it takes " in done.stderr
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert result_of(disk / "run")["status"] == "failed"
    (disk / "other").unlink()
    done = command(disk, "resume=run", "sft.trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert torch.load(last, weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("where", ["", "run"])
def test_a_disk_that_takes_nothing_is_one_message(where: str, disk: Path) -> None:
    if where:
        (disk / "full").write_bytes(b"1" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = command(disk, *SFT, "hydra.run.dir=run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: the disk takes no more: " in done.stderr
