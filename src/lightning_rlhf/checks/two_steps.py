"""Watches the steps of an examined stage: how far it comes, and whether all trained parameters get a gradient."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.distributed.weight_movement import FEW, REMEDY, Movement


class Watch(Callback):
    """Records the phase of a stage, and which parameters have received a gradient other than zero.

    It watches all steps, because no gradient passes a head or an adapter that is zero in the first step.
    """

    def __init__(self) -> None:
        """Starts in the phase `settings`."""
        self.phase = "settings"
        self.moved: float | None = None
        self.received: set[str] = set()
        self.not_zero: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the phase in which the models are built."""
        self.phase = "models"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enters the phase of the training steps."""
        self.phase = "two steps"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the weights before the first step."""
        self.movement = Movement(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enters the phase of the held-out data."""
        self.phase = "held-out data"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compares the weights after the last step, and enters the phase of the export."""
        self.moved = self.movement.share(trainer)
        self.phase = "export"

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Records which parameters have a gradient."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.received.add(name)
                if parameter.grad.any():
                    self.not_zero.add(name)

    def movement_of_weights(self) -> Finding:
        """Checks that the steps moved the weights. In 16 bits, the usual learning rates can be too small for that."""
        if self.moved is None:
            return Finding(
                "weights move", "warning", "this strategy does not show weights", "examine with strategy=single too"
            )
        return judged(
            "weights move",
            self.moved >= FEW,
            f"{self.moved:.1%} of the trained weights moved in two steps",
            REMEDY,
            severity="warning",
        )

    def gradients(self, module: nn.Module) -> Finding:
        """Checks after some steps that every trained parameter has received a gradient."""
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        missing = [name for name in trained if name not in self.not_zero]
        if not self.received:
            return Finding(
                "gradients", "warning", "this strategy does not show gradients", "examine with strategy=single too"
            )
        if not self.not_zero:
            return Finding("gradients", "warning", "all gradients are 0", "nothing to learn: see the scores above")
        return judged(
            "gradients",
            not missing,
            f"{len(trained) - len(missing)} of {len(trained)} trained tensors get a gradient"
            + (f"; these do not: {', '.join(missing[:3])}" if missing else ""),
            "tensors without a gradient never change: freeze them, or find out what cuts them off",
            severity="error",
        )
