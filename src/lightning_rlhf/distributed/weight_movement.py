"""The share of the trained weights that an optimizer step changes; it is small if they have too few digits for it."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.distributed.phases import trained_weights

FEW = 0.25
"""A share below this is too small.

In fp32 all weights move except the embeddings of tokens that did not occur, if they are not tied to the head; those are
up to two thirds of the smallest models. In bfloat16 about a tenth of all weights move at a learning rate of 1e-5.
"""
REMEDY = (
    "train in trainer.precision=bf16-mixed or 32-true, which hold trained weights in fp32; bf16-true and 16-true need "
    "a far higher learning rate"
)
_PER_TENSOR = 1024


class Movement:
    """Compares the trained weights with their values at the time of its creation, on a sample of each tensor."""

    def __init__(self, trainer: Trainer) -> None:
        """Copies a sample of the weights; the trainer must have its optimizer already."""
        self.before = _sample(trained_weights(trainer))

    def share(self, trainer: Trainer) -> float | None:
        """Returns the share that has changed, over all ranks; None if the strategy gives no access to the weights."""
        weights = trained_weights(trainer)
        after = _sample(weights)
        moved = sum(
            float((now != then).float().mean()) * weight.numel()
            for now, then, weight in zip(after, self.before, weights, strict=True)
            if weight.numel()
        )
        counts = torch.tensor([moved, sum(weight.numel() for weight in weights)], device=trainer.strategy.root_device)
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        return float(counts[0] / counts[1]) if counts[1] else None


def _sample(weights: list[Tensor]) -> list[Tensor]:
    """Returns about `_PER_TENSOR` numbers of each tensor, at equal distances."""
    return [weight.detach().flatten()[:: max(1, weight.numel() // _PER_TENSOR)].clone() for weight in weights]
