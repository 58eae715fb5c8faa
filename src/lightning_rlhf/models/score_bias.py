"""Moves the bias of a scalar model to a weight that transformers reads.

The heads of Hugging Face's `…ForSequenceClassification` have no bias. If the last norm has a bias, as a LayerNorm does,
adding b w / |w|² to it raises the score of the head w by b. An RMSNorm has no bias, and no weights of norm and head can
replace it: w · γ x / rms(x) changes its sign with x, and a constant does not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.adapters.lora import is_of_head
from lightning_rlhf.models.scalar import ScalarModel


class Folding:
    """Streams the weights of a scalar model, which include as much of its bias as possible.

    Weights in 16 bits include none of it, because a change of the norm would be lost in the rounding of hidden states.
    """

    def __init__(self, empty: ScalarModel, bias: float) -> None:
        """Finds the norm that the head reads.

        Args:
            empty: A model with the same structure; its weights are not read.
            bias: The bias of the model.
        """
        # Rounded as in a scalar model that is loaded in the dtype of these weights.
        self.left = float(torch.tensor(bias, dtype=empty.head.weight.dtype))
        """When the stream has ended: the part of the bias that is in no weight."""
        self._norm = _last_norm(empty)

    def applied(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights of the Hugging Face model, which are on the CPU; the bias of the last norm comes last."""
        before, head = None, torch.empty(0)
        for name, weight in weights:
            if name == self._norm:
                before = weight
                continue
            if is_of_head(name):
                head = weight[0].double()
            yield name, weight
        if self._norm is not None and before is not None:
            yield self._norm, self._moved(before, head)

    def _moved(self, before: Tensor, head: Tensor) -> Tensor:
        if before.dtype != torch.float32 or not head.any():
            return before
        after = (before.double() + self.left * head / head.square().sum()).float()
        self.left -= float(head @ (after.double() - before.double()))
        return after


def _last_norm(model: ScalarModel) -> str | None:
    """Returns the name of the bias of the norm that the head reads; None if it has no bias.

    This is the last norm outside the blocks. If it has another width, a projection follows, as in some sizes of OPT.
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
