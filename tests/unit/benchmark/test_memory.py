"""The peaks of a process."""

import subprocess
import sys

import pytest

SIZE = 400 * 2**20


def test_the_peak_stays_when_memory_is_freed() -> None:
    # In a process of its own, because the peak of this one may be far above what it holds now.
    program = (
        "from lightning_rlhf.benchmark.memory import peak_rss_bytes; print(peak_rss_bytes()); "
        f"held = bytearray({SIZE}); held[::4096] = b'x' * len(held[::4096]); del held; print(peak_rss_bytes())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, said)
    assert after - before == pytest.approx(SIZE, rel=0.1)


def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it() -> None:
    # A process that holds 400 MiB starts one that holds nothing, and both import torch.
    child = "from lightning_rlhf.benchmark.memory import peak_rss_bytes; print(peak_rss_bytes())"
    parent = (
        "import subprocess, sys; from lightning_rlhf.benchmark.memory import peak_rss_bytes; "
        f"held = bytearray({SIZE}); held[::4096] = b'x' * len(held[::4096]); print(peak_rss_bytes(), flush=True); "
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True, close_fds=False)"
    )
    said = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout.split()
    large, small = map(int, said)
    assert small < large - SIZE // 2
