"""Gradient norms and clipping of each role under ColossalAI.

ColossalAI's optimizers clip in their step, and clip all parameter groups together by one norm.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_rlhf.distributed.gradient_norms import divided_norms, gradients, role_of


class ZeroClipping:
    """Measures the gradients that a `LowLevelZeroOptimizer` is about to clip, and makes it clip role by role."""

    def __init__(self, optimizer: Any, device: torch.device) -> None:
        """Replaces the optimizer's own `_unscale_and_clip_grads`.

        Args:
            optimizer: The boosted optimizer.
            device: The device of this process, through which norms are sent.
        """
        self.optimizer, self.device, self.by_role = optimizer, device, False
        self.norms: dict[str, Tensor] = {}
        """Each role's norm in the last step, before clipping; multiplied by the loss scale, as the gradients are."""
        self._clip = optimizer._unscale_and_clip_grads
        optimizer._unscale_and_clip_grads = self._clip_by_role

    def _clip_by_role(self, parts: list[Tensor], total_norm: float) -> None:
        # At this point, the parameter groups hold this process's shares.
        roles = gradients(self.optimizer.optim)
        self.norms = divided_norms(roles, self.device)
        if not self.by_role:
            self._clip(parts, total_norm)
            return
        for role, norm in self.norms.items():
            self._clip(roles[role], float(norm))


class GeminiClipping:
    """Measures the gradients that a `GeminiOptimizer` is about to clip, and makes it clip role by role.

    Gradients lie in chunks of 16 bits, so they are not scaled in place: Adam divides them by the factor in fp32.
    """

    def __init__(self, optimizer: Any, device: torch.device) -> None:
        """Replaces the functions with which the optimizer chooses a factor and takes a step of Adam.

        Args:
            optimizer: The boosted optimizer.
            device: The device of this process, through which norms are sent.
        """
        self.optimizer, self.device, self.by_role = optimizer, device, False
        self.norms: dict[str, Tensor] = {}
        """Each role's norm in the last step, before clipping; multiplied by the loss scale, as the gradients are."""
        self._scale_of_all, optimizer._get_combined_scale = optimizer._get_combined_scale, self._measure
        self._step, optimizer.optim.step = optimizer.optim.step, self._step_by_role

    def _measure(self) -> float:
        roles: dict[str, list[Tensor]] = {}
        for group in self.optimizer.optim.param_groups:
            mine = [part.grad for part in group["params"] if self._counts_here(part)]
            roles.setdefault(role_of(group), []).extend(mine)
        self.norms = divided_norms(roles, self.device)
        return self._scale_of_all()

    def _counts_here(self, part: Tensor) -> bool:
        """Whether this process adds its part to the norm; only the first one adds a chunk that is whole everywhere."""
        chunk = self.optimizer.param_to_chunk16[part]
        if not self.optimizer.module.chunk_manager.reuse_fp16_chunk:
            chunk = chunk.grad_chunk
        return not chunk.is_gathered or dist.get_rank() == 0

    def _step_by_role(self, *arguments: object, div_scale: float, **settings: object) -> Any:
        if not self.by_role:
            return self._step(*arguments, div_scale=div_scale, **settings)
        adam = self.optimizer.optim
        groups = adam.param_groups
        try:
            for role, norm in self.norms.items():
                adam.param_groups = [group for group in groups if role_of(group) == role]
                self._step(*arguments, div_scale=self._scale(float(norm)), **settings)
        finally:
            adam.param_groups = groups

    def _scale(self, norm: float) -> float:
        """The number by which Adam divides the gradients of a role; `_get_combined_scale` computes it for all roles."""
        loss_scale = self.optimizer.mix_precision_mixin.get_grad_div_scale()
        scale = loss_scale * max(1.0, (norm / loss_scale + 1e-6) / self.optimizer.max_norm)
        # ColossalAI writes -1 for 1.
        return -1 if scale == 1.0 else scale


def clip_on_cpu(optimizer: Any) -> None:
    """Makes ColossalAI's optimizers clip bf16 gradients in the CPU's memory too (nn/optimizer/hybrid_adam.py).

    They update weights with such gradients by a separate function, `torch_adam_update`, which ignores `div_scale`.

    Args:
        optimizer: A `HybridAdam` or `CPUAdam`; a `FusedAdam`, whose weights are all on the GPU, stays as it is.
    """
    if not hasattr(optimizer, "torch_adam_update"):
        return
    update = optimizer.torch_adam_update
    scale = 1.0

    def take_scale(optimizer: object, arguments: tuple[object, ...], settings: dict[str, float]) -> None:
        nonlocal scale
        # ColossalAI writes -1 for 1.
        scale = settings["div_scale"] if settings.get("div_scale", -1) > 0 else 1.0

    def clipped_update(weight: Tensor, gradient: Tensor, *others: object) -> None:
        update(weight, gradient.to(weight.dtype) / scale, *others)

    optimizer.register_step_pre_hook(take_scale)
    optimizer.torch_adam_update = clipped_update
