"""Folders that take the place of others when they are complete."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.strategies import Strategy


@contextmanager
def replacing(target: Path, strategy: Strategy) -> Iterator[Path]:
    """A folder that all ranks write together, and that takes the name of an older one when all are done.

    A run that is killed while it writes keeps the older one, maybe under another name: see `restore`.

    Args:
        target: Its name in the end; what has it now, file or folder, is removed.
        strategy: Knows the ranks.

    Yields:
        The folder to write.
    """
    partial, old = target.with_name(f".{target.name}.partial"), _old(target)
    if strategy.is_global_zero:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    strategy.barrier()
    yield partial
    strategy.barrier()
    if strategy.is_global_zero:
        # A folder cannot take the place of one that is not empty.
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        else:
            target.unlink(missing_ok=True)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    strategy.barrier()


def restore(target: Path) -> None:
    """Gives an older folder its name back, if a run was killed when its replacement had not taken it yet.

    All processes may do it at once.
    """
    if not target.exists():
        with suppress(FileNotFoundError):
            _old(target).rename(target)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
