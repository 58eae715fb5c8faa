"""The memory of this machine, or the part of it that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class HostMemory(NamedTuple):
    """The memory of a machine."""

    size: int
    """In bytes."""
    source: str
    """What says so, in words."""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The memory of this machine, or less if a container, SLURM or systemd limits this process with a control group.

    Sources: cgroups(7); the kernel's documentation, admin-guide/cgroup-v2.rst, `memory.max`, and
    admin-guide/cgroup-v1/memory.rst, `memory.limit_in_bytes`.

    Args:
        root: The root of the file system.
    """
    found = [HostMemory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the memory of this machine")]
    for file in _limits(root):
        text = file.read_text().strip() if file.is_file() else "max"
        # Version 2 writes `max` if there is no limit, and version 1 a number that is larger than any memory.
        if text.isdigit():
            found.append(HostMemory(int(text), f"the limit of this process's control group, {file}"))
    return min(found)


def device_memory() -> int | None:
    """The memory of the smallest GPU of this machine in bytes; None if it has no GPU."""
    # Checks before a run do without torch.
    import torch

    count = torch.cuda.device_count()
    return min((torch.cuda.get_device_properties(number).total_memory for number in range(count)), default=None)


def _limits(root: Path) -> Iterator[Path]:
    """The files that may limit the memory of this process: those of its control groups and of the groups above."""
    listed = root / "proc" / "self" / "cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # A container may see its own group at the top, whatever path it is listed with.
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder / name
