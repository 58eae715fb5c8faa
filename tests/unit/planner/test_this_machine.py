"""How much memory this process may use, read from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from lightning_rlhf.planner.this_machine import host_memory

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def kernel(root: Path, files: dict[str, str]) -> Path:
    """A root of a file system with some files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected", "limit"),
    [
        ({}, WHOLE, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, WHOLE, None),
        # A container sees its own group at the top.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "4096000\n"}, 4096000, "memory.max"),
        ({"proc/self/cgroup": "0::/elsewhere\n", "sys/fs/cgroup/memory.max": "4096000\n"}, 4096000, "memory.max"),
        # A job of SLURM: the step has no limit of its own, and the job above it has one.
        (
            {
                "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
                "sys/fs/cgroup/slurm/job_7/memory.max": "8192000\n",
                "sys/fs/cgroup/slurm/job_7/step_0/memory.max": "max\n",
            },
            8192000,
            "job_7/memory.max",
        ),
        # Version 1: a number that no machine has, and a limit.
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory,hugetlb:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "16384000\n",
            },
            16384000,
            "docker/1/memory.limit_in_bytes",
        ),
        # More than there is.
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(WHOLE + 1)}, WHOLE, None),
    ],
)
def test_the_least_limit_counts(files: dict[str, str], expected: int, limit: str | None, tmp_path: Path) -> None:
    found = host_memory(kernel(tmp_path, files))
    assert found.size == expected
    if limit is None:
        assert found.source == "the memory of this machine"
    else:
        assert found.source.endswith(limit)
