"""Optimizer, parameter groups and schedule, shared by the stages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from transformers import get_scheduler

from lightning_rlhf.distributed.gradient_norms import NO_DECAY
from lightning_rlhf.distributed.phases import sharding
from lightning_rlhf.distributed.shapes import whole_shape
from lightning_rlhf.errors import raise_problems


@dataclass(frozen=True, kw_only=True)
class Optim:
    """What to optimize with."""

    optimizer: Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer] = partial(torch.optim.AdamW, lr=0.0)
    """Makes the optimizer of parameter groups, which carry their own learning rates."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases get none."""
    schedule: str = "constant"
    """What transformers' `get_scheduler` knows: constant, linear, cosine…"""
    warmup: float = 0.0
    """Share of all steps in which the learning rate rises from 0."""

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.weight_decay < 0:
            problems.append(f"weight_decay={self.weight_decay}: must not be negative")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup={self.warmup}: must lie in [0, 1): it is a share of all steps")
        raise_problems(problems)


def configure(module: LightningModule, optim: Optim, nets: dict[str, tuple[nn.Module, float]]) -> OptimizerLRScheduler:
    """One optimizer with parameter groups, since not every strategy allows a second one.

    Args:
        module: Its trainer knows the number of steps.
        optim: What to optimize with.
        nets: For each name a net and its learning rate.

    Returns:
        What `configure_optimizers` returns.
    """
    groups = []
    for name, (net, lr) in nets.items():
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in parameters if len(whole_shape(parameter)) > 1]
        others = [parameter for parameter in parameters if len(whole_shape(parameter)) <= 1]
        groups.append({"params": decayed, "lr": lr, "weight_decay": optim.weight_decay, "name": name})
        groups.append({"params": others, "lr": lr, "weight_decay": 0.0, "name": name + NO_DECAY})
    # Adapters have matrices only, and strategies lose groups that are empty.
    optimizer = optim.optimizer([group for group in groups if group["params"]])
    if sharding(module.trainer) is None:
        # Lightning keeps gradients until the next loss is there, through a whole rollout.
        optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    steps = int(module.trainer.estimated_stepping_batches)
    scheduler = get_scheduler(optim.schedule, optimizer, int(optim.warmup * steps), steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def undo_averaging(trainer: Trainer) -> int:
    """The factor that turns a share of a global loss into what Lightning expects.

    Our losses are sums over a micro-batch divided by the size of the whole minibatch, so their sum over ranks and
    accumulated parts is the loss of the minibatch, however it was shared. Lightning divides by the number of parts,
    and gradients are averaged over the ranks.
    """
    return trainer.world_size * trainer.accumulate_grad_batches
