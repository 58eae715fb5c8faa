"""How far a reward model's probabilities can be believed.

The Bradley-Terry model says that answer i of a row is the best with probability softmax(scores)_i; of two answers, this
is the sigmoid of the difference of their scores.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_MOST_BINS = 10
_FEWEST_ROWS = 20
"""A bin with fewer rows than this says little."""


class Bin(NamedTuple):
    """Rows about which the model is about equally sure."""

    confidence: float
    """Mean probability that the model gives to the answer which it likes best."""
    accuracy: float
    """Share of the rows in which that answer is the good one; a tie of n answers counts 1/n."""
    num_rows: int


class Calibration(NamedTuple):
    """What the probabilities are worth."""

    log_loss: float
    """Mean of -log(probability of the good answer), in nats; log(n) for a model that knows nothing of n answers."""
    error: float
    """Expected calibration error: mean distance between confidence and accuracy of the bins, weighted by their rows."""
    bins: list[Bin]


def calibration(scores: Sequence[Sequence[float]]) -> Calibration:
    """Compares probabilities with what is right.

    The bins have equal numbers of rows: up to ten bins, of at least twenty rows if there are so many.
    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), section 2, where the bins have equal widths;
    equal numbers leave no bin almost empty.

    Args:
        scores: The scores of the answers of each row, of which only the first is good.
    """
    confidences, hits, losses = [], [], []
    for row in scores:
        numbers = np.asarray(row, dtype=float)
        log_probs = numbers - numbers.max() - np.log(np.exp(numbers - numbers.max()).sum())
        best = numbers == numbers.max()
        confidences.append(float(np.exp(log_probs.max())))
        hits.append(float(best[0]) / best.sum())
        losses.append(-float(log_probs[0]))
    order = np.argsort(confidences, kind="stable")
    count = max(1, min(_MOST_BINS, len(order) // _FEWEST_ROWS))
    bins = [
        Bin(float(np.mean(np.take(confidences, rows))), float(np.mean(np.take(hits, rows))), len(rows))
        for rows in np.array_split(order, count)
    ]
    error = sum(abs(each.accuracy - each.confidence) * each.num_rows for each in bins) / len(order)
    return Calibration(float(np.mean(losses)), float(error), bins)
