"""Which share of the trained weights an optimizer moves: few, where they have too few digits for its steps."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_rlhf.distributed.phases import trained_weights

FEW = 0.25
"""A smaller share is too small.

In fp32 all weights move but the embeddings of tokens that did not occur, where they are not tied to the head: up to two
thirds of the smallest nets. In bfloat16 about a tenth of all do at a learning rate of 1e-5.
"""
REMEDY = (
    "train in trainer.precision=bf16-mixed or 32-true, which hold trained weights in fp32; bf16-true and 16-true need "
    "a far higher learning rate"
)
_PER_TENSOR = 1024


class Movement:
    """Compares the trained weights with what they were when this was made; on a sample of each tensor."""

    def __init__(self, trainer: Trainer) -> None:
        """Looks at the weights, once the optimizer is there."""
        self.before = _sample(trained_weights(trainer))

    def share(self, trainer: Trainer) -> float | None:
        """The share that is not what it was, over all ranks; None where the strategy shows no weights."""
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
    """Up to `_PER_TENSOR` numbers of each tensor, at equal distances."""
    return [weight.detach().flatten()[:: max(1, weight.numel() // _PER_TENSOR)].clone() for weight in weights]
