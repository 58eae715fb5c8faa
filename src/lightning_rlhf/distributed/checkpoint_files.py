"""Checkpoints that are one file, which takes the place of another when it is complete."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lightning_rlhf.saving import appearing


class WholeFiles(TorchCheckpointIO):
    """Lightning's, but a file is written beside the one that it replaces.

    Lightning writes to the folder for temporary files and moves from there, which is a copy if that is on another file
    system: a run that was killed then had a part of a checkpoint in place of its only one.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: Any, storage_options: object = None) -> None:
        """Writes a file; what is not on a file system of this machine is left to Lightning."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with appearing(Path(path)) as partial:
            torch.save(checkpoint, partial)


def keep_last_file(trainer: Trainer) -> None:
    """Lets a trainer write checkpoints by `WholeFiles`, unless the user has chosen another way."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()
