"""Norms of the gradients of each role, and a bound on each of them.

A role, such as the actor or the critic, is what trains by itself: its weights are the optimizer's parameter groups that
bear its name, one with weight decay and perhaps one without.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

NO_DECAY = "_no_decay"
"""What the name of a role's group without weight decay ends with."""


def role_of(group: Mapping[str, object]) -> str:
    """The role of a parameter group; groups without a name are one role together."""
    return str(group.get("name", "model")).removesuffix(NO_DECAY)


def gradients(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """The gradients of each role as far as this process holds them; every role is there on every process."""
    found: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        found.setdefault(role_of(group), []).extend(_here(weight.grad) for weight in weights)
    return found


def _here(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of all tensors together, in fp32; there must be one at least."""
    return torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in tensors]).norm()


def whole_norms(roles: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Norms of gradients that this process holds whole; a role without gradients has none."""
    return {role: total_norm(tensors) for role, tensors in roles.items() if tensors}


def divided_norms(roles: Mapping[str, Sequence[Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Norms of gradients that are divided among all processes; asked by all of them together.

    Args:
        roles: This process's parts; the same roles on every process.
        device: Where the processes send numbers from.
    """
    nothing = torch.zeros((), device=device)
    squares = torch.stack([total_norm(parts).to(device) if parts else nothing for parts in roles.values()]).square()
    dist.all_reduce(squares)
    return dict(zip(roles, squares.sqrt(), strict=True))


def shrink(roles: Mapping[str, Sequence[Tensor]], norms: Mapping[str, Tensor], max_norm: float) -> None:
    """Scales the gradients of each role whose norm is too large, in place, by torch's `clip_grad_norm_`'s formula."""
    for role, norm in norms.items():
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for tensor in roles[role]:
            tensor.mul_(factor.to(tensor.device))
