"""The signal handler of the checkpoints."""

import errno
import signal
from pathlib import Path

import pytest

from lightning_rlhf.callbacks import RunCheckpoint
from lightning_rlhf.run_log import LOG


def test_a_full_disk_does_not_raise_an_error_wherever_a_signal_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LOG, "write", full)
    checkpoint = RunCheckpoint(str(tmp_path))
    checkpoint._receive(signal.SIGTERM, None)
    assert checkpoint.received == signal.SIGTERM
    assert "stopping after this step" in capfd.readouterr().err
