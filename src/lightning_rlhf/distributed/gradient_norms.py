"""Norms of the gradients of each role, and clipping by them.

A role, such as the actor or the critic, is clipped by its own norm. Its weights are in the parameter groups of the
optimizer that have its name: one group with weight decay, and perhaps one without.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

NO_DECAY = "_no_decay"
"""The ending of the name of a role's parameter group without weight decay."""


def role_of(group: Mapping[str, object]) -> str:
    """Returns the role of a parameter group; all groups without a name form one role."""
    return str(group.get("name", "model")).removesuffix(NO_DECAY)


def gradients(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """Returns the parts of the gradients that this process holds, by role; all processes have the same roles."""
    found: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        found.setdefault(role_of(group), []).extend(_here(weight.grad) for weight in weights)
    return found


def _here(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the norm of all tensors together, in fp32; there must be at least one tensor."""
    return torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in tensors]).norm()


def whole_norms(roles: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Returns the norms of gradients that this process holds whole, without roles that have no gradients."""
    return {role: total_norm(tensors) for role, tensors in roles.items() if tensors}


def divided_norms(roles: Mapping[str, Sequence[Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Returns the norms of gradients that are divided among all processes, which call this together.

    Args:
        roles: This process's parts of the gradients, with the same roles on every process.
        device: The device of this process, through which norms are sent.
    """
    nothing = torch.zeros((), device=device)
    squares = torch.stack([total_norm(parts).to(device) if parts else nothing for parts in roles.values()]).square()
    dist.all_reduce(squares)
    return dict(zip(roles, squares.sqrt(), strict=True))


def shrink(roles: Mapping[str, Sequence[Tensor]], norms: Mapping[str, Tensor], max_norm: float) -> None:
    """Scales the gradients of roles with too large a norm, in place, by the formula of torch's `clip_grad_norm_`."""
    for role, norm in norms.items():
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for tensor in roles[role]:
            tensor.mul_(factor.to(tensor.device))
