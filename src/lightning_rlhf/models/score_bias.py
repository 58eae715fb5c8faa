"""Puts the bias of a scalar model where transformers reads it.

The heads of Hugging Face's `…ForSequenceClassification` have no bias. Where the last norm has one, as LayerNorm does,
the head w gives a score that is higher by b if the norm's bias is moved by b w / |w|². An RMSNorm has none, and no
weights of norm and head can stand in for it: w · γ x / rms(x) changes its sign with x, and a constant does not.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.models.adapters.lora import is_of_head
from lightning_rlhf.models.scalar import ScalarModel


class Folding:
    """Streams the weights of a scalar model, with as much of its bias in them as they can take.

    Weights in 16 bits take none: what is added to a norm would be rounded away in every hidden state.
    """

    def __init__(self, empty: ScalarModel, bias: float) -> None:
        """Looks for the place.

        Args:
            empty: A model like it, of which only the structure counts.
            bias: That of the model.
        """
        # As a scalar model holds it that is read in the dtype of these weights.
        self.left = float(torch.tensor(bias, dtype=empty.head.weight.dtype))
        """The bias that no weight has taken, when the stream has ended: all of it where the last norm has no place."""
        self._norm = _last_norm(empty)

    def applied(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The weights of its Hugging Face model on the CPU; the bias of the last norm comes last."""
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
