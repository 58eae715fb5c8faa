"""Folders that all ranks write together, and that replace older ones when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.strategies import Strategy

from lightning_rlhf.checksums import SUMS, checksums, write_checksums
from lightning_rlhf.distributed.collectives import gather_objects, place_among_processes
from lightning_rlhf.saving import flush, partial_of, put, remove


@contextmanager
def replacing(target: Path, strategy: Strategy) -> Iterator[Path]:
    """Context for a folder that all ranks write together; it gets the name of an older one when all ranks are done.

    A run that is killed while it writes keeps the older folder, perhaps under another name: see `saving.restore`.

    Args:
        target: The final path; a file or folder that is there is removed.
        strategy: Provides the rank and the barrier.

    Yields:
        The folder to write.
    """
    partial = partial_of(target)
    if strategy.is_global_zero:
        remove(partial)
        partial.mkdir(parents=True)
    strategy.barrier()
    yield partial
    # A file may have another name while it is written.
    strategy.barrier()
    # By each rank, which may be on a machine of its own.
    flush(partial)
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    rank, processes = place_among_processes()
    parts = gather_objects([checksums(partial, files[rank::processes])])
    strategy.barrier()
    if strategy.is_global_zero:
        write_checksums(partial, {name: digest for sums in parts for name, digest in sums.items()})
        flush(partial / SUMS)
        put(partial, target)
    strategy.barrier()
