"""Optimizers of bitsandbytes, which save memory."""

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
    """AdamW with its state in 8 or 32 bits.

    Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022).

    Args:
        params: Parameter groups.
        lr: Learning rate of groups that have none of their own.
        betas: Decay of the averages.
        eps: Added to the denominator.
        bits: Of each number of the state; of tensors with fewer than 4096 weights always 32.
        paged: Whether a GPU whose memory is full may move the state to that of the CPU.

    Raises:
        UserError: If bitsandbytes is not installed, or weights are spread over processes.
    """
    name = f"optim=adamw_{bits}bit{'_paged' if paged else ''}"
    require("bitsandbytes", "bitsandbytes", name)
    import bitsandbytes

    groups = list(params)
    if any(is_divided(weight) for group in groups for weight in group["params"]):
        raise UserError(f"{name}: bitsandbytes knows no weights that are spread over processes: take optim=adamw")
    # A checkpoint keeps betas, which should hold no types of Hydra's.
    return bitsandbytes.optim.AdamW(groups, lr, tuple(betas), eps, optim_bits=bits, is_paged=paged)
