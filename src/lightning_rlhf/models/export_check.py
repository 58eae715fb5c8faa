"""Checks that an export gives the same numbers as the model in memory."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_rlhf.models.adapters.active import activated
from lightning_rlhf.models.adapters.merging import active_adapter, is_quantized
from lightning_rlhf.models.attention import without_flash
from lightning_rlhf.models.forward import position_arguments
from lightning_rlhf.models.scalar import ScalarModel


class Said(NamedTuple):
    """The answer of a model to a fixed row of ids, in fp32."""

    numbers: Tensor
    """Logits or scores."""
    behind: Tensor
    """Logits, or the hidden states behind the scores, of which there are many."""


@torch.no_grad()
def said(net: nn.Module) -> Said:
    """Calls a model in evaluation mode; afterwards it is in the mode that it was in.

    Args:
        net: A causal language model, or a `ScalarModel`.
    """
    ids = torch.arange(2, 18, device=next(net.parameters()).device)[None]
    mask = torch.ones_like(ids, dtype=torch.bool)
    was_training = net.training
    net.eval()
    try:
        # The model may be on a CPU, or called outside autocast.
        with without_flash(net):
            if isinstance(net, ScalarModel):
                return Said(net(ids, mask), net.hidden_states(ids, mask).float())
            of_causal: Any = net
            logits = of_causal(ids, **position_arguments(net, mask)).logits.float()
            return Said(logits, logits)
    finally:
        net.train(was_training)


def said_without_adapter(net: nn.Module) -> Said | None:
    """What a model says without its active adapter, if it has one."""
    if active_adapter(net) is None:
        return None
    with activated(net, None):
        return said(net)


def what_differs(net: nn.Module, reloaded: Said, dtype: torch.dtype | None) -> str | None:
    """How an export differs from what it was made of, if it does by more than rounding.

    Args:
        net: As it was trained, with its adapter beside its weights.
        reloaded: What the export says.
        dtype: What its weights were merged or rounded to; None: they are those of the model, bit by bit.
    """
    trained = said(net)
    difference = _difference(trained, reloaded)
    allowed = 1e-4 if dtype is None else _allowed(net, dtype, float(trained.numbers.abs().max()))
    if difference > allowed:
        return f"differs by {difference:.2e} from the one in memory"
    bare = said_without_adapter(net)
    # Rounding moves the plain form as far from the one as from the other; it is near the latter only by mistake. So it
    # sees effects smaller than what rounding may do. Layers in 8 bits hide those, since they round in every call.
    if bare is not None and _distance(reloaded, bare) < _distance(reloaded, trained) / 4:
        return f"differs by {difference:.2e} from the trained one, and gives what that gives without its adapter"
    return None


def _difference(one: Said, other: Said) -> float:
    return float((one.numbers - other.numbers).abs().max())


def _distance(one: Said, other: Said) -> float:
    return float((one.behind - other.behind).norm())


def _allowed(net: nn.Module, dtype: torch.dtype, size: float) -> float:
    """How far numbers of the given size may differ where weights were merged or rounded for the export."""
    # Layers in 8 bits round what they are given too, which the merged ones do not.
    share = 0.1 if is_quantized(net, ("Linear8bitLt",)) else 8 * torch.finfo(dtype).eps
    # Pretrained models lose digits: hidden states of SmolLM2 reach 25,000 in one place, and its logits are off by 0.1%.
    return max(1.0, size) * max(5e-3, share)
