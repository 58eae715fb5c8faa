"""Puts the bias of a scalar model where transformers reads it.

The heads of Hugging Face's `…ForSequenceClassification` have no bias. Where the last norm has one, as LayerNorm does,
the head w gives a score that is higher by b if the norm's bias is moved by b w / |w|². An RMSNorm has none, and no
weights of norm and head can stand in for it: w · γ x / rms(x) changes its sign with x, and a constant does not.
"""

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.scalar import ScalarModel


@torch.no_grad()
def folded(model: ScalarModel) -> tuple[dict[str, Tensor], float]:
    """The weights of a scalar model's net with as much of its bias in them as they can take.

    Weights in 16 bits take none: what is added to a norm would be rounded away in every hidden state.

    Args:
        model: With plain weights. It stays as it is.

    Returns:
        The weights, and the bias that is left: all of it where the last norm has none.
    """
    weights, bias, head = model.net.state_dict(), float(model.bias), model.head.weight[0].double()
    name = _last_norm(model)
    if name is None or weights[name].dtype != torch.float32 or not head.any():
        return weights, bias
    before = weights[name].double()
    after = (before + bias * head / head.square().sum()).float()
    return weights | {name: after}, bias - float(head @ (after.double() - before))


def _last_norm(model: ScalarModel) -> str | None:
    """The name of the bias of the norm that the head reads; None if it has none.

    The last one outside of the blocks; one of another width has a projection behind it, as in some sizes of OPT.
    """
    inside = {part for block in blocks(model.net) for part in block.modules()}
    norms = [
        (path, module)
        for path, module in model.net.named_modules()
        if isinstance(module, nn.LayerNorm) and module not in inside
    ]
    if not norms or norms[-1][1].bias is None or norms[-1][1].normalized_shape != (model.head.in_features,):
        return None
    return f"{norms[-1][0]}.bias"
