"""The optimizers that come with a strategy, for those who handle optimizers but know no strategy."""

import importlib
from collections.abc import Callable

import torch

_MODULES = {"cpu_adamw": "deepspeed.ops", "hybrid_adam": "colossalai.boost"}
"""The module of each, below `strategies`. Importing one takes time, and few runs need it."""


def find_optimizer(name: str) -> Callable[..., torch.optim.Optimizer] | None:
    """Imports an optimizer of a strategy.

    Args:
        name: Its name, such as `cpu_adamw`.

    Returns:
        The function that makes the optimizer; None if there is none of this name.
    """
    if name not in _MODULES:
        return None
    found: Callable[..., torch.optim.Optimizer] = getattr(
        importlib.import_module(f"lightning_rlhf.strategies.{_MODULES[name]}"), name
    )
    return found
