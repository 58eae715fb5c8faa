"""Collective operations. Each returns its input if there is only one process."""

from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

Item = TypeVar("Item")


def is_first_process() -> bool:
    """Whether this process prints messages and writes files; this is known before the processes are connected."""
    return getattr(rank_zero_only, "rank", 0) == 0


def place_among_processes() -> tuple[int, int]:
    """Returns the rank of this process, and the number of processes that are connected."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenates the rows of all ranks in the order of the ranks.

    Args:
        tensor: (B, …), of the same shape on every rank.

    Returns:
        (B · ranks, …) on every rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    # NCCL does not send bool.
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
    parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).to(tensor.dtype)


def gather_objects(items: list[Item]) -> list[Item]:
    """Concatenates the lists of all ranks in the order of the ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return items
    parts: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]
