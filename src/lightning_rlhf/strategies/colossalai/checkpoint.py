"""The checkpoint of a ColossalAI strategy: a folder with whole weights, a file of each process, and Lightning's state.

last.ckpt/
  weights.pt                       fp32 master weights, by the names that the module has
  optimizer/process_0_of_2.pt      the share of the optimizer's state that each process holds
  state.ckpt                       loops, callbacks, schedulers, data
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from lightning_rlhf.distributed.shards import spread_like
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai.engine import Engine
from lightning_rlhf.strategies.pickle_checks import check_file

WEIGHTS, OPTIMIZER, STATE = "weights.pt", "optimizer", "state.ckpt"


def is_colossalai_checkpoint(path: Path) -> bool:
    """Whether a ColossalAI strategy has written a checkpoint."""
    return all((path / name).exists() for name in (WEIGHTS, STATE))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns the whole fp32 weights by their names in the module, on the CPU; each is read when it is needed.

    Args:
        checkpoint: The folder.

    Raises:
        UserError: If the file is damaged or could run code.
    """
    check_file(checkpoint / WEIGHTS)
    return torch.load(checkpoint / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)


def read_rest(checkpoint: Path) -> dict[str, Any]:
    """Returns what a folder contains beside weights and optimizer states.

    Raises:
        UserError: If the file is damaged or could run code.
    """
    check_file(checkpoint / STATE)
    return torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)


def optimizer_file(rank: int, processes: int) -> str:
    """Returns the name of the file in a checkpoint that holds the optimizer's share of a process."""
    return f"{OPTIMIZER}/process_{rank}_of_{processes}.pt"


def read_optimizer(checkpoint: Path, rank: int, processes: int) -> dict[str, Any]:
    """Reads this process's share of the optimizer's state.

    Raises:
        UserError: If the checkpoint has no such file, was written by another number of processes, is damaged or could
            run code.
    """
    file = checkpoint / optimizer_file(rank, processes)
    if not file.exists():
        written = len(list((checkpoint / OPTIMIZER).glob("process_*.pt")))
        had = f"was written by {written} processes" if written else "contains weights only"
        raise UserError(
            f"checkpoint={checkpoint}: it {had}, so this run of {processes} processes cannot load the optimizer's "
            "state from it: resume with as many processes, or start from an export of its weights"
        )
    check_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def save(checkpoint: Mapping[str, Any], folder: Path, strategy: ParallelStrategy, storage_options: object) -> None:
    """Writes a checkpoint; all processes call this together.

    Args:
        checkpoint: What Lightning has gathered. The optimizer's state is the share of this process.
        folder: An empty folder.
        strategy: Provides the rank of this process, and writes the file with Lightning's state.
        storage_options: As in Lightning's `CheckpointIO`.
    """
    rest = dict(checkpoint)
    weights, shares = rest.pop("state_dict"), rest.pop("optimizer_states", [])
    (folder / OPTIMIZER).mkdir(exist_ok=True)
    for share in shares:
        torch.save(share, folder / optimizer_file(strategy.global_rank, strategy.world_size))
    if strategy.is_global_zero:
        torch.save(weights, folder / WEIGHTS)
        strategy.checkpoint_io.save_checkpoint(rest, folder / STATE, storage_options)


def load(path: Path, checkpoint_io: CheckpointIO, weights_only: bool | None) -> dict[str, Any]:
    """Reads a checkpoint; its entry `optimizer_states` is the path, from which `read_optimizer` reads a share.

    Args:
        path: The checkpoint.
        checkpoint_io: Reads the file with Lightning's state.
        weights_only: As in `torch.load`, for Lightning's state.

    Raises:
        UserError: If another strategy has written the checkpoint, or it is damaged or could run code.
    """
    if not is_colossalai_checkpoint(path):
        raise UserError(
            f"checkpoint={path}: no ColossalAI strategy has written it; resume with the strategy that wrote it"
        )
    check_file(path / STATE)
    state = checkpoint_io.load_checkpoint(path / STATE, weights_only=weights_only)
    return state | {"state_dict": read_weights(path), "optimizer_states": [path]}


def load_whole_state_dict(module: nn.Module, state: dict[str, Tensor], engine: Engine, strict: bool) -> None:
    """Sets weights and buffers as `module.load_state_dict` would if the weights were whole.

    Args:
        module: The module that trains.
        state: Whole weights and buffers by name.
        engine: Sets the trained weights.
        strict: Whether the names must be exactly those of the module.

    Raises:
        RuntimeError: If `strict` is set and the names differ, or if a weight has another shape.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    trained = {name: named[name] for name in state if name in named and id(named[name]) in engine.parameters}
    others = {name: spread_like(tensor, named.get(name)) for name, tensor in state.items() if name not in trained}
    keys = module.load_state_dict(others, strict=False)
    wrong = [f"unexpected: {name}" for name in keys.unexpected_keys]
    wrong += [f"missing: {name}" for name in keys.missing_keys if name not in trained]
    shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    sizes = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if state[name].shape != shape
    ]
    if sizes or (strict and wrong):
        raise RuntimeError(f"weights do not fit {type(module).__name__}: " + "; ".join(sizes + wrong))
    engine.load({id(parameter): state[name] for name, parameter in trained.items()})
