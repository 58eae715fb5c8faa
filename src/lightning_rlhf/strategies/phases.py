"""What a strategy must do around a phase. Algorithms enter a phase and never learn which strategy runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def rollout_phase(nets: nn.Module) -> Iterator[None]:
    """Sampling and scoring: no gradients, evaluation mode, both restored afterwards.

    On a single device and under DDP every process holds the whole nets, so nothing has to be gathered.

    Args:
        nets: The module that holds all nets that the phase calls.
    """
    modes = {module: module.training for module in nets.modules()}
    nets.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
