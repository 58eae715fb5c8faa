"""Gradient norms and clipping of each role under DeepSpeed.

DeepSpeed's optimizer clips in its step, and clips all parameter groups together by one norm.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.distributed.gradient_norms import role_of


class Clipping:
    """Records the norms that ZeRO's optimizer computes of its groups, and makes it clip by the norm of each role."""

    def __init__(self, optimizer: Any) -> None:
        """Replaces the functions with which the optimizer measures and clips.

        Args:
            optimizer: A `DeepSpeedZeroOptimizer` or `DeepSpeedZeroOptimizer_Stage3`. It measures all of its groups in
                order with one of two functions, and then clips them in order with `unscale_and_clip_grads`.
        """
        self.optimizer, self.by_role = optimizer, False
        # ZeRO 3 divides a parameter group into several groups of its own.
        groups = getattr(optimizer, "sub_group_to_group_id", None)
        order = range(len(optimizer.optimizer.param_groups)) if groups is None else groups.values()
        self._roles = [role_of(optimizer.optimizer.param_groups[group]) for group in order]
        self._measured: list[Tensor] = []
        self._scale = 1.0
        for name in ("get_grad_norm_direct", "complete_grad_norm_calculation_for_cpu_offload"):
            setattr(optimizer, name, self._noting(getattr(optimizer, name)))
        self._clip = optimizer.unscale_and_clip_grads
        optimizer.unscale_and_clip_grads = self._clip_by_role

    def norms(self, device: torch.device) -> dict[str, Tensor] | None:
        """Returns the norm of each role's gradients in the last step, before clipping.

        Args:
            device: The device that the norms are moved to.

        Returns:
            Norms by role; None before the first step, or if fp16 gradients overflowed in the last one.
        """
        if not self._measured or getattr(self.optimizer, "overflow", False):
            return None
        return {role: (self._norm(role) / self._scale).to(device) for role in dict.fromkeys(self._roles)}

    def _norm(self, role: str) -> Tensor:
        """Returns the norm of a role as the optimizer has it: multiplied by the loss scale, as the gradients are."""
        return torch.stack([norm for norm, of in zip(self._measured, self._roles, strict=True) if of == role]).norm()

    def _noting(self, measure: Callable[..., Tensor | float]) -> Callable[..., Tensor | float]:
        def noting(*arguments: object, **settings: object) -> Tensor | float:
            if len(self._measured) == len(self._roles):
                self._measured = []
            norm = measure(*arguments, **settings)
            value = torch.as_tensor(norm, dtype=torch.float32)
            # DeepSpeed writes -1 for NaN and infinity (`mask_nan_or_inf_with_val_inplace` in runtime/utils.py).
            self._measured.append(value.masked_fill(value < 0, float("inf")))
            self._scale = self.optimizer.loss_scale
            return norm

        return noting

    def _clip_by_role(self, which: int | list[Tensor], total_norm: object) -> None:
        # Without a bound, DeepSpeed may not measure.
        self._clip(which, self._norm(self._role(which)) if self.by_role and self._measured else total_norm)

    def _role(self, which: int | list[Tensor]) -> str:
        """Returns the role of a group: ZeRO 3 passes its number, ZeRO 1 and 2 pass a list with its gradients."""
        if isinstance(which, int):
            return self._roles[which]
        parts = self.optimizer.single_partition_of_fp32_groups
        return next(role for role, part in zip(self._roles, parts, strict=True) if part.grad is which[0])
