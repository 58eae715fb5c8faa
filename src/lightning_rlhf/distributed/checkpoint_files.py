"""Checkpoints of one file, which replaces an older file when it is complete."""

from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lightning_rlhf.saving import appearing


class WholeFiles(TorchCheckpointIO):
    """Lightning's `TorchCheckpointIO`, except that a file is written beside the one that it replaces.

    Lightning writes to the folder for temporary files and moves the file from there. If that folder is on another file
    system, the move is a copy, and a run that is killed meanwhile replaces its only checkpoint by a part of one.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        """Writes a file; Lightning writes it if it is not on a file system of this machine."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with appearing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def keep_last_file(trainer: Trainer) -> None:
    """Makes a trainer write checkpoints with `WholeFiles`, unless the user has chosen another `CheckpointIO`."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
