"""Checkpoints of one file, which replaces an older file when it is complete."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lightning_rlhf.disk import check_room
from lightning_rlhf.saving import appearing


class WholeFiles(TorchCheckpointIO):
    """Lightning's `TorchCheckpointIO`, except that a file is written beside the one that it replaces.

    Lightning writes to the folder for temporary files and moves the file from there. If that folder is on another file
    system, the move is a copy, and a run that is killed meanwhile replaces its only checkpoint by a part of one.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        """Writes a file; Lightning writes it if it is not on a file system of this machine.

        Raises:
            UserError: If the disk has no room for it. The older file is still there.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        with appearing(target) as partial:
            check_room(target, _size(checkpoint))
            torch.save(checkpoint, partial)


def _size(checkpoint: object) -> int:
    """The bytes of all tensors in a checkpoint; what else is in it is small."""
    if isinstance(checkpoint, torch.Tensor):
        return checkpoint.nbytes
    inside = checkpoint.values() if isinstance(checkpoint, Mapping) else checkpoint
    return sum(map(_size, inside)) if isinstance(inside, Iterable) and not isinstance(inside, str | bytes) else 0


def keep_last_file(trainer: Trainer) -> None:
    """Makes a trainer write checkpoints with `WholeFiles`, unless the user has chosen another `CheckpointIO`."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
