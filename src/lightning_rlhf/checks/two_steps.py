"""Watches the steps of an examined stage: how far it comes, and whether all that is to be trained gets a gradient."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.distributed.weight_movement import FEW, REMEDY, Movement


class Watch(Callback):
    """Notes where a stage is, and which parameters have got a gradient that is not zero.

    Over all steps, since behind a head or an adapter that starts at zero nothing arrives in the first.
    """

    def __init__(self) -> None:
        """Starts before everything."""
        self.phase = "settings"
        self.moved: float | None = None
        self.received: set[str] = set()
        self.not_zero: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Nets are built next."""
        self.phase = "nets"

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Batches are made next."""
        self.phase = "two steps"

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Looks at the weights before the first step."""
        self.movement = Movement(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """A batch of held-out data comes next."""
        self.phase = "held-out data"

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Looks at the weights after the last step; the export comes next."""
        self.moved = self.movement.share(trainer)
        self.phase = "export"

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Looks at the gradients."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.received.add(name)
                if parameter.grad.any():
                    self.not_zero.add(name)

    def movement_of_weights(self) -> Finding:
        """Whether the steps moved the weights, which 16 bits have too few digits for at the usual learning rates."""
        if self.moved is None:
            return Finding("weights move", "warning", "this strategy shows none", "examine with strategy=single too")
        return judged(
            "weights move",
            self.moved >= FEW,
            f"{self.moved:.1%} of those that are trained, in two steps",
            REMEDY,
            severity="warning",
        )

    def gradients(self, module: nn.Module) -> Finding:
        """What was seen of the gradients, once some steps are done."""
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        missing = [name for name in trained if name not in self.not_zero]
        if not self.received:
            return Finding("gradients", "warning", "this strategy shows none", "examine with strategy=single too")
        if not self.not_zero:
            return Finding("gradients", "warning", "all are 0", "there was nothing to learn: see the scores above")
        return judged(
            "gradients",
            not missing,
            f"{len(trained) - len(missing)} of {len(trained)} trained tensors get one"
            + (f"; not {', '.join(missing[:3])}" if missing else ""),
            "these would stay as they are: freeze them, or find out what cuts them off",
            severity="error",
        )
