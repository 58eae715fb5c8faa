"""Folders that all ranks write together, and that take the place of others when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.strategies import Strategy

from lightning_rlhf.saving import flush, partial_of, put, remove


@contextmanager
def replacing(target: Path, strategy: Strategy) -> Iterator[Path]:
    """A folder that all ranks write together, and that takes the name of an older one when all are done.

    A run that is killed while it writes keeps the older one, maybe under another name: see `saving.restore`.

    Args:
        target: Its name in the end; what has it now, file or folder, is removed.
        strategy: Knows the ranks.

    Yields:
        The folder to write.
    """
    partial = partial_of(target)
    if strategy.is_global_zero:
        remove(partial)
        partial.mkdir(parents=True)
    strategy.barrier()
    yield partial
    # A file may go by another name while it is written.
    strategy.barrier()
    # By each rank, which may be on a machine of its own.
    flush(partial)
    strategy.barrier()
    if strategy.is_global_zero:
        put(partial, target)
    strategy.barrier()
