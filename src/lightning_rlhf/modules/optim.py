"""Optimizer, parameter groups and learning-rate schedule of all stages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from transformers import get_scheduler

from lightning_rlhf.distributed.gradient_norms import NO_DECAY
from lightning_rlhf.distributed.phases import sharding
from lightning_rlhf.distributed.shapes import whole_shape
from lightning_rlhf.errors import raise_problems
from lightning_rlhf.modules.adam import fuse


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of the optimizer and of the learning-rate schedule.

    Attributes:
        optimizer: Makes the optimizer from parameter groups, each of which has its own learning rate.
        weight_decay: Weight decay of matrices; norms and biases have none.
        schedule: Name of a schedule of transformers' `get_scheduler`: constant, linear, cosine…
        warmup: Share of all steps over which the learning rate rises from 0.
    """

    optimizer: Callable[[list[dict[str, object]]], torch.optim.Optimizer] = partial(torch.optim.AdamW, lr=0.0)
    weight_decay: float = 0.01
    schedule: str = "constant"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if not self.weight_decay >= 0:
            problems.append(f"weight_decay={self.weight_decay}: must not be negative")
        if not 0 <= self.warmup < 1:
            problems.append(f"warmup={self.warmup}: must lie in [0, 1): it is a share of all steps")
        raise_problems(problems)


def configure(module: LightningModule, optim: Optim, nets: dict[str, tuple[nn.Module, float]]) -> OptimizerLRScheduler:
    """Makes a single optimizer with parameter groups, since not every strategy allows a second optimizer.

    Args:
        module: The module, whose trainer knows the number of steps.
        optim: Settings of the optimizer and of the schedule.
        nets: Models with their learning rates, by name.

    Returns:
        The result of the hook `configure_optimizers`.
    """
    groups: list[dict[str, object]] = []
    for name, (net, lr) in nets.items():
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in parameters if len(whole_shape(parameter)) > 1]
        others = [parameter for parameter in parameters if len(whole_shape(parameter)) <= 1]
        groups.append({"params": decayed, "lr": lr, "weight_decay": optim.weight_decay, "name": name})
        groups.append({"params": others, "lr": lr, "weight_decay": 0.0, "name": name + NO_DECAY})
    # Adapters consist of matrices only, and some strategies lose empty groups.
    optimizer = optim.optimizer([group for group in groups if group["params"]])
    fuse(optimizer)
    if sharding(module.trainer) is None:
        # Lightning keeps gradients until the next loss is computed, and so through a whole rollout.
        optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    steps = int(module.trainer.estimated_stepping_batches)
    scheduler = get_scheduler(optim.schedule, optimizer, int(optim.warmup * steps), steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def undo_averaging(trainer: Trainer) -> int:
    """Returns the factor by which a module multiplies its share of the loss, to undo averages that follow.

    Our losses are sums over a micro-batch divided by the size of the whole minibatch. Their sum over ranks and
    accumulated parts is the loss of the minibatch, however the minibatch is shared. Lightning, however, divides by the
    number of parts, and averages gradients over the ranks.
    """
    return trainer.world_size * trainer.accumulate_grad_batches
