"""Gradient norms and clipping of each role, whatever strategy trains."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.distributed.gradient_norms import gradients, shrink, whole_norms
from lightning_rlhf.distributed.phases import sharding
from lightning_rlhf.errors import UserError


def grad_norms(trainer: Trainer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor] | None:
    """Measures the gradients of each role in fp32, before they are clipped and before the optimizer's step.

    Returns:
        Norms by role, without roles that have no gradients; None if they are known only after the step.
    """
    strategy = sharding(trainer)
    return whole_norms(gradients(optimizer)) if strategy is None else strategy.grad_norms()


def last_grad_norms(trainer: Trainer) -> dict[str, Tensor] | None:
    """Returns the norms of the step that was just taken; None if `grad_norms` has returned them."""
    strategy = sharding(trainer)
    return None if strategy is None else strategy.last_grad_norms()


def clip_by_role(trainer: Trainer, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Clips the gradients of each role by their own norm; for `configure_gradient_clipping`.

    Args:
        trainer: Knows the strategy.
        optimizer: Its parameter groups are named after roles; see `gradient_norms`.
        max_norm: The largest norm that the gradients of one role may keep.

    Raises:
        UserError: If the optimizer takes the loss scale of fp16 off the gradients only in its step.
    """
    # Lightning's plugin for mixed precision raises an error for the same reason when it clips.
    if getattr(optimizer, "_step_supports_amp_scaling", False) and trainer.scaler is not None:
        raise UserError(
            f"trainer.gradient_clip_val={max_norm}: under 16-mixed a fused optimizer unscales gradients in its step, "
            "after they are clipped: set optim.optimizer.fused=false or trainer.precision=bf16-mixed"
        )
    strategy = sharding(trainer)
    if strategy is None:
        roles = gradients(optimizer)
        shrink(roles, whole_norms(roles), max_norm)
    else:
        strategy.clip_by_role(max_norm)
