"""The settings of a process: the user's own win, and freed memory is used again."""

import os
import subprocess
import sys

import pytest

from lightning_rlhf.process import prepare_process


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_sleep_after_a_moment_unless_the_environment_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", {**before, "MALLOC_ARENA_MAX": "1"})
    prepare_process()
    assert os.environ == {**after, "MALLOC_ARENA_MAX": "1"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these settings")
@pytest.mark.parametrize("own", [False, True])
def test_freed_memory_is_used_again_unless_the_environment_has_settings_of_malloc(own: bool) -> None:
    program = """
import resource, torch
from lightning_rlhf.process import prepare_process
prepare_process()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# An aligned block is larger than its tensor, so that the first ones do not fit into what was freed.
for _ in range(16): torch.ones(2**24)
before = faults()
for _ in range(8): torch.ones(2**24)
print(faults() - before)
"""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    if own:
        settings["MALLOC_ARENA_MAX"] = "1"
    said = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    # Each tensor has 64 MiB, which are 16,384 pages.
    pages = 8 * 16_384
    assert int(said.stdout) > 0.9 * pages if own else int(said.stdout) < 0.1 * pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these settings")
def test_memory_between_blocks_in_use_is_returned_on_demand() -> None:
    program = """
from pathlib import Path
import torch
from lightning_rlhf.process import prepare_process, return_freed_memory
prepare_process()
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) // 256
blocks = [(torch.ones(2**22), torch.ones(1024)) for _ in range(8)]
small = [block[1] for block in blocks]
del blocks
before = resident()
return_freed_memory()
print(before - resident())
"""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    said = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    # Eight tensors of 16 MiB.
    assert int(said.stdout) > 0.9 * 128
