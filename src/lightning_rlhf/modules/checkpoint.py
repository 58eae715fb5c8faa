"""A checkpoint holds what changes; nets that stay as they were built come from where they came from."""

from typing import Any

from torch import nn


def leave_out(checkpoint: dict[str, Any], unchanged: tuple[str, ...]) -> None:
    """Takes weights out of a checkpoint that is to be written.

    Args:
        checkpoint: Without `state_dict` where a strategy writes the weights itself.
        unchanged: Prefixes of their names.
    """
    if "state_dict" in checkpoint:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith(unchanged)}


def fill_in(checkpoint: dict[str, Any], unchanged: tuple[str, ...], module: nn.Module) -> None:
    """Puts the weights that were left out into a checkpoint that was read, so that loading stays strict."""
    if unchanged and "state_dict" in checkpoint:
        checkpoint["state_dict"] |= {k: v for k, v in module.state_dict().items() if k.startswith(unchanged)}
