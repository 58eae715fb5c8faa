"""What a strategy must do around a phase. Algorithms enter a phase and never learn which strategy runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from torch import nn


@contextmanager
def rollout_phase(trainer: Trainer, *nets: nn.Module) -> Iterator[None]:
    """Sampling and scoring: no gradients, evaluation mode, both restored afterwards; the precision of the update.

    On a single device and under DDP every process holds the whole nets, so nothing has to be gathered.

    Args:
        trainer: Knows the precision. Lightning enters it for its own steps, but a rollout happens between those, and
            log-probs in another precision than the update's would make a ratio that is not 1 at its start.
        *nets: The modules that hold all nets that the phase calls.
    """
    modes = {module: module.training for net in nets for module in net.modules()}
    for net in nets:
        net.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
