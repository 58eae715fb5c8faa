"""Checks of reward model and critic: they ignore padding, and the reward model reads the last token.

All ranks have to call these checks with the same rows, because a sharded model gathers its weights.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad as widen

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.data.batches import Ids, pad
from lightning_rlhf.models.packing import without_packing
from lightning_rlhf.models.scalar import Scalar

# Additional columns of padding, so that rows of equal length are padded too.
_EXTRA = 3


def ignores_padding(name: str, net: Scalar, rows: Sequence[Ids], limit: float) -> Finding:
    """Checks that the hidden states of the backbone do not depend on the padding around a row.

    The head is left out, because the head of a critic is 0 at first and would give 0 for every row.

    Args:
        name: Name of the model in the finding.
        net: The model, in evaluation mode and without gradients.
        rows: Token ids of each row.
        limit: The largest allowed difference of two results, relative to the largest result.
    """

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        return net.hidden_states(ids, mask)[mask].float()

    with without_packing():
        alone = torch.cat([read(*row) for row in _alone(net, rows)])
        difference = max(_distance(read(*padded), alone) for padded in _padded(net, rows))
    return judged(
        f"{name}: padding",
        difference <= limit,
        f"padding changes hidden states by {difference:.2g} of the largest",
        "the model reads padding: look at the attention mask, the positions and model.attn_implementation",
        severity="error",
    )


def reads_last_token(name: str, net: Scalar, rows: Sequence[Ids], limit: float) -> Finding:
    """Checks that the score is the output of the model at the last token of a row, whatever the padding.

    Args:
        name: Name of the model in the finding.
        net: The model, in evaluation mode and without gradients.
        rows: Token ids of each row.
        limit: The largest allowed difference of two scores of a row, relative to the largest output of the model.
    """
    with without_packing():
        alone = [net(*row) for row in _alone(net, rows)]  # (1, T) each
        last, largest = torch.cat([numbers[:, -1] for numbers in alone]), torch.cat(alone, dim=1).abs().max()
        difference = max(_distance(net.scores(*padded), last, largest) for padded in _padded(net, rows))
    return judged(
        f"{name}: last token",
        difference <= limit,
        f"the score differs from the output at the last token by {difference:.2g} of the largest",
        "read the score at the last real token of the row, not at padding and not as an average",
        severity="error",
    )


def _alone(net: Scalar, rows: Sequence[Ids]) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask of each row, without padding."""
    for row in rows:
        ids, mask = pad([row])
        yield ids.to(net.bias.device), mask.to(net.bias.device)


def _padded(net: Scalar, rows: Sequence[Ids]) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask of all rows, padded on the right and then on the left."""
    for side, columns in {"right": (0, _EXTRA), "left": (_EXTRA, 0)}.items():
        ids, mask = pad(list(rows), side)
        yield widen(ids, columns).to(net.bias.device), widen(mask, columns).to(net.bias.device)


def _distance(numbers: Tensor, expected: Tensor, largest: Tensor | None = None) -> float:
    """The largest difference, relative to the largest expected number."""
    largest = expected.abs().max() if largest is None else largest
    return float((numbers - expected).abs().max() / largest.clamp(min=torch.finfo(largest.dtype).tiny))


def beats_length(accuracy: float, longer: float, num_pairs: int) -> Finding:
    """Checks whether a reward model is more accurate than the length of the answers.

    Args:
        accuracy: Share of the pairs in which the chosen answer scores higher.
        longer: Share of the pairs in which the chosen answer is longer.
        num_pairs: Number of pairs.
    """
    best = max(longer, 1 - longer)
    return judged(
        "reward model: length",
        accuracy > best,
        f"accuracy {accuracy:.3f} on {num_pairs} held-out pairs; the length alone reaches {best:.3f}",
        f"PPO would learn to write {'longer' if longer > 0.5 else 'shorter'} answers: train it longer or on more pairs",
        severity="error",
    )
