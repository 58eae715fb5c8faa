"""The checkpoint of a ColossalAI strategy: a folder with whole weights, a file of each process, and Lightning's state.

last.ckpt/
  weights.pt                       fp32 master weights, by the names that the module has
  optimizer/process_0_of_2.pt      what each process's share of the optimizer holds
  state.ckpt                       loops, callbacks, schedulers, data
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.shards import spread_like
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.pickle_checks import check_file

WEIGHTS, OPTIMIZER, STATE = "weights.pt", "optimizer", "state.ckpt"


def is_colossalai_checkpoint(path: Path) -> bool:
    """Whether a ColossalAI strategy has written it."""
    return all((path / name).exists() for name in (WEIGHTS, STATE))


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Whole weights in fp32 by the names that the module has, on the CPU, read as they are needed.

    Args:
        checkpoint: The folder.

    Raises:
        UserError: If they are damaged, or could run code.
    """
    check_file(checkpoint / WEIGHTS)
    return torch.load(checkpoint / WEIGHTS, map_location="cpu", weights_only=True, mmap=True)


def optimizer_file(rank: int, processes: int) -> str:
    """Where a process keeps its share of the optimizer, inside a checkpoint."""
    return f"{OPTIMIZER}/process_{rank}_of_{processes}.pt"


def read_optimizer(checkpoint: Path, rank: int, processes: int) -> dict[str, Any]:
    """This process's share of the optimizer.

    Raises:
        UserError: If the checkpoint has none, was written by another number of processes, is damaged, or could run
            code.
    """
    file = checkpoint / optimizer_file(rank, processes)
    if not file.exists():
        written = len(list((checkpoint / OPTIMIZER).glob("process_*.pt")))
        had = f"was written by {written} processes" if written else "has weights only"
        raise UserError(
            f"checkpoint={checkpoint}: {had}, and this run, with {processes}, cannot take the optimizer's state from "
            "it: go on with as many processes, or start from an export of its weights"
        )
    check_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def load_whole_state_dict(module: nn.Module, state: dict[str, Tensor], engine: Any, strict: bool) -> None:
    """Sets weights and buffers, as `module.load_state_dict` would if weights were whole.

    Args:
        module: The module that trains.
        state: Whole weights and buffers by name.
        engine: Sets those that are trained.
        strict: Demand that the names are those of the module.

    Raises:
        RuntimeError: If they are not, or a weight has another shape.
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
