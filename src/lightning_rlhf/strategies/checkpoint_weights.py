"""Reads a checkpoint of any strategy, on the CPU and without the processes that wrote it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.checksums import check_checksums
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai import checkpoint as colossalai
from lightning_rlhf.strategies.deepspeed import checkpoint as deepspeed
from lightning_rlhf.strategies.fsdp import checkpoint as fsdp
from lightning_rlhf.strategies.pickle_checks import check_checkpoint

_Read = Callable[[Path], dict[str, Any]]
_FOLDERS: list[tuple[Callable[[Path], bool], _Read, _Read]] = [
    (fsdp.is_distributed_checkpoint, fsdp.read_weights, fsdp.read_rest),
    (deepspeed.is_deepspeed_checkpoint, deepspeed.read_weights, deepspeed.read_rest),
    (colossalai.is_colossalai_checkpoint, colossalai.read_weights, colossalai.read_rest),
]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns whole weights by their names in the training module.

    Args:
        checkpoint: A file, or a folder that a sharding strategy has written.

    Raises:
        UserError: If it is no checkpoint, is damaged or could run code.
    """
    if checkpoint.is_file():
        return _read_file(checkpoint)["state_dict"]
    weights, _ = _readers(checkpoint)
    return weights(checkpoint)


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Returns what a module has saved: whole weights (`state_dict`), and whatever else does not belong to a process.

    Args:
        checkpoint: A file, or a folder that a sharding strategy has written.

    Raises:
        UserError: If it is no checkpoint, is damaged or could run code.
    """
    if checkpoint.is_file():
        return _read_file(checkpoint)
    weights, rest = _readers(checkpoint)
    return rest(checkpoint) | {"state_dict": weights(checkpoint)}


def _read_file(checkpoint: Path) -> dict[str, Any]:
    check_checkpoint(checkpoint)
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)


def _readers(folder: Path) -> tuple[_Read, _Read]:
    """Finds the functions that read the weights and the rest of a folder."""
    check_checksums(folder, f"checkpoint={folder}")
    for recognises, weights, rest in _FOLDERS:
        if recognises(folder):
            return weights, rest
    raise UserError(f"checkpoint={folder}: not a checkpoint that a strategy of this package has written")
