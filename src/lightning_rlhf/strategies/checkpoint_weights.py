"""Reads the weights of a checkpoint of any strategy, on the CPU and without the processes that wrote it."""

from pathlib import Path

import torch
from torch import Tensor

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai import checkpoint as colossalai
from lightning_rlhf.strategies.deepspeed import checkpoint as deepspeed
from lightning_rlhf.strategies.fsdp import checkpoint as fsdp
from lightning_rlhf.strategies.pickle_checks import check_file

_FOLDERS = [
    (fsdp.is_distributed_checkpoint, fsdp.read_weights),
    (deepspeed.is_deepspeed_checkpoint, deepspeed.read_weights),
    (colossalai.is_colossalai_checkpoint, colossalai.read_weights),
]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns whole weights by their names in the training module.

    Args:
        checkpoint: A file, or a folder that a sharding strategy has written.

    Raises:
        UserError: If it is no checkpoint, is damaged or could run code.
    """
    if checkpoint.is_file():
        check_file(checkpoint)
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    for recognises, read in _FOLDERS:
        if recognises(checkpoint):
            return read(checkpoint)
    raise UserError(f"checkpoint={checkpoint}: not a checkpoint that a strategy of this package has written")
