"""Checks of preference pairs: how well the length alone predicts the choice, and whether a reward model is better."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.checks.nets import beats_length
from lightning_rlhf.data.batches import chunks
from lightning_rlhf.data.pairs import Pair
from lightning_rlhf.data.preference import answer_lengths, collate_pairs
from lightning_rlhf.modules.reward import wins
from lightning_rlhf.rewards.net import RowScorer


def length_tells(pairs: Sequence[Pair]) -> Finding:
    """Checks how well the length alone predicts which answer was chosen.

    Args:
        pairs: Pairs to train a reward model on.
    """
    # The lengths are taken without making a batch, which would pad all pairs to the longest of them.
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    longer = float(_by_length(answer_lengths(answers)).mean())
    return judged(
        "length in the pairs",
        0.35 < longer < 0.65,
        f"the longer answer was chosen in {longer:.1%} of {len(pairs)} pairs",
        "the model will learn the length first: add pairs in which the length says nothing about the choice",
        severity="warning",
    )


@torch.no_grad()
def tells_more_than_length(net: RowScorer, pairs: Sequence[Pair], batch_size: int, device: torch.device) -> Finding:
    """Checks whether a trained reward model is more accurate than the length of the answers on held-out pairs.

    Args:
        net: The reward model, in evaluation mode.
        pairs: Held-out pairs, in the tokens of the reward model.
        batch_size: Number of pairs that the model reads at a time.
        device: The device of the model.
    """
    batches = [collate_pairs(pairs[rows], 0) for rows in chunks(len(pairs), batch_size)]
    right = torch.cat(
        [wins(*net.scores(b.input_ids.to(device), b.attention_mask.to(device)).chunk(2)).cpu() for b in batches]
    )
    longer = torch.cat([_by_length(batch.answer_lengths) for batch in batches])
    return beats_length(float(right.mean()), float(longer.mean()), len(pairs))


def _by_length(lengths: Tensor) -> Tensor:
    """(B,) 1 where the chosen answer is longer, 0 where it is shorter, 0.5 for a tie; from (2B,), chosen first."""
    return wins(*lengths.float().chunk(2))
