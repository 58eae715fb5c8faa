"""Memory-saving optimizers of bitsandbytes."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch

from lightning_rlhf.distributed.shapes import is_divided
from lightning_rlhf.errors import UserError, require


def adamw(
    params: Iterable[dict[str, Any]],
    lr: float,
    betas: Sequence[float],
    eps: float,
    *,
    bits: Literal[8, 32],
    paged: bool,
) -> torch.optim.Optimizer:
    """Makes an AdamW optimizer whose state has 8 or 32 bits.

    Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022).

    Args:
        params: Parameter groups.
        lr: Learning rate of groups that have no learning rate of their own.
        betas: Decay rates of the running averages.
        eps: Number that is added to the denominator.
        bits: Bits of each number of the state. The state of a tensor with fewer than 4096 weights always has 32 bits.
        paged: Whether the state may move to CPU memory when the memory of the GPU is full.

    Raises:
        UserError: If bitsandbytes is not installed, or weights are sharded over processes.
    """
    name = f"optim=adamw_{bits}bit{'_paged' if paged else ''}"
    require("bitsandbytes", "bitsandbytes", name)
    import bitsandbytes

    groups = list(params)
    if any(is_divided(weight) for group in groups for weight in group["params"]):
        raise UserError(f"{name}: bitsandbytes supports no weights that are sharded over processes: set optim=adamw")
    # Checkpoints contain the betas, which should not have a type of Hydra.
    return bitsandbytes.optim.AdamW(groups, lr, tuple(betas), eps, optim_bits=bits, is_paged=paged)
