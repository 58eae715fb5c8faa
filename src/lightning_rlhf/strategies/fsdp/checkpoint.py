"""Checkpoints that all ranks write together, each its share, in the format of torch.distributed.checkpoint.

    last.ckpt/
      .metadata, __0_0.distcp, __1_0.distcp     weights and the optimizer's state, by name
      meta.pt                                   loops, callbacks, schedulers, data

A name says where a value belongs, not which rank held it, so any number of ranks can resume from the checkpoint.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.pickle_checks import check_distributed, check_file

WEIGHTS, OPTIMIZER, REST = "state_dict", "optimizer_{}", "meta.pt"


def is_distributed_checkpoint(path: Path) -> bool:
    """Whether a path is such a folder."""
    return all((path / name).is_file() for name in (".metadata", REST))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns whole weights by their names in the module, on the CPU, without the ranks that wrote them.

    Args:
        checkpoint: The folder.

    Raises:
        UserError: If a file could run code.
    """
    check_distributed(checkpoint)
    weights = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _saved_weights(checkpoint).items()
    }
    dcp.load({WEIGHTS: weights}, checkpoint_id=checkpoint, no_dist=True)
    return weights


def read_rest(checkpoint: Path) -> dict[str, Any]:
    """Returns what a folder contains beside weights and optimizer states.

    Raises:
        UserError: If the file is damaged or could run code.
    """
    check_file(checkpoint / REST)
    return torch.load(checkpoint / REST, map_location="cpu", weights_only=True)


def save(checkpoint: Mapping[str, Any], folder: Path, *, is_first: bool) -> None:
    """Writes a checkpoint; all ranks call this together.

    Args:
        checkpoint: What Lightning has gathered. Weights and optimizer states are the shares of this rank.
        folder: An empty folder.
        is_first: Whether this rank writes the part that is the same on all ranks.
    """
    rest = dict(checkpoint)
    shares = {WEIGHTS: rest.pop(WEIGHTS)}
    shares |= {OPTIMIZER.format(i): state for i, state in enumerate(rest.pop("optimizer_states", []))}
    dcp.save(shares, checkpoint_id=folder)
    if is_first:
        torch.save(rest, folder / REST)


def load(
    path: Path,
    model: nn.Module,
    optimizers: Iterable[Optimizer],
    *,
    unchanged: tuple[str, ...],
    strict: bool,
    weights_only: bool | None,
) -> dict[str, Any]:
    """Sets weights and optimizers that are divided among ranks; all ranks call this together.

    Args:
        path: A checkpoint.
        model: The module with this rank's shares.
        optimizers: The optimizers to restore.
        unchanged: Prefixes of the weights that a checkpoint does not contain.
        strict: Whether it must contain all other weights.
        weights_only: As in `torch.load`, for the rest.

    Returns:
        The rest of the checkpoint.

    Raises:
        UserError: If it is no such checkpoint, contains other weights or could run code.
    """
    if not is_distributed_checkpoint(path):
        raise UserError(f"checkpoint={path}: FSDP has not written it; resume with the strategy that wrote it")
    check_distributed(path)
    check_file(path / REST)
    saved = _saved_weights(path).keys()
    weights = {name: w for name, w in get_model_state_dict(model).items() if not name.startswith(unchanged)}
    if strict and saved != weights.keys():
        missing, unknown = sorted(weights.keys() - saved), sorted(saved - weights.keys())
        raise UserError(f"checkpoint={path}: it holds another model: it lacks {missing}, and has {unknown} instead")
    weights = {name: weight for name, weight in weights.items() if name in saved}
    dcp.load({WEIGHTS: weights}, checkpoint_id=path)
    set_model_state_dict(model, weights, options=StateDictOptions(strict=False))
    for i, optimizer in enumerate(optimizers):
        state = get_optimizer_state_dict(model, optimizer)
        dcp.load({OPTIMIZER.format(i): state}, checkpoint_id=path)
        set_optimizer_state_dict(model, optimizer, state)
    return torch.load(path / REST, map_location="cpu", weights_only=weights_only)


def _saved_weights(checkpoint: Path) -> dict[str, TensorStorageMetadata]:
    prefix = f"{WEIGHTS}."
    saved = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {name.removeprefix(prefix): entry for name, entry in saved.items() if name.startswith(prefix)}  # type: ignore[misc]
