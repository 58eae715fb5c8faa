"""Mean and variance of a stream of numbers."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Moments of all numbers so far."""

    num_values: int = 0
    mean: float = 0.0
    sum_of_squares: float = 0.0
    """Sum of the squared distances to the mean."""

    @property
    def std(self) -> float:
        """Population standard deviation; 1 while there are fewer than two numbers."""
        return (self.sum_of_squares / self.num_values) ** 0.5 if self.num_values > 1 else 1.0


def update_moments(moments: Moments, values: Tensor) -> Moments:
    """Adds numbers to the stream.

    Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance" (1983).

    Args:
        moments: Moments of the numbers so far.
        values: (B,) new numbers.
    """
    values = values.to(torch.float64)
    count, mean = len(values), float(values.mean())
    total, difference = moments.num_values + count, mean - moments.mean
    return Moments(
        total,
        moments.mean + difference * count / total,
        moments.sum_of_squares
        + float((values - mean).square().sum())
        + difference**2 * moments.num_values * count / total,
    )
