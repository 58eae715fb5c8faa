"""Sums and moments over the valid tokens of a padded tensor."""

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sums the elements that the mask keeps; what lies under the mask may be anything, NaN included.

    Args:
        x: Any shape.
        mask: The same shape, True where an element counts.
        dim: The dimension to sum over; all of them if None.
    """
    return torch.where(mask, x, 0).sum() if dim is None else torch.where(mask, x, 0).sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Averages the elements that the mask keeps; 0 where it keeps none.

    Args:
        x: Any shape.
        mask: The same shape, True where an element counts.
        dim: The dimension to average over; all of them if None.
    """
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance of the elements that the mask keeps.

    Args:
        x: Any shape.
        mask: The same shape, True where an element counts.
    """
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def masked_whiten(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Shifts and scales the kept elements to mean 0 and variance 1; the others become 0.

    The variance is the population's, as in OpenAI's lm-human-preferences (`tf.nn.moments`).

    Args:
        x: Any shape, such as (B, R) advantages.
        mask: The same shape, True where an element counts.
        epsilon: Added to the variance.
    """
    whitened = (x - masked_mean(x, mask)) * torch.rsqrt(masked_var(x, mask) + epsilon)
    return torch.where(mask, whitened, 0)


def masked_unit_variance(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Scales the kept elements to variance 1 around the mean that they have; the others become 0.

    What lm-human-preferences does to rewards ("whitening with shift_mean=False"): a mean that says whether responses
    are good at all is kept.

    Args:
        x: Any shape, such as (B, R) rewards.
        mask: The same shape, True where an element counts.
        epsilon: Added to the variance.
    """
    return masked_whiten(x, mask, epsilon=epsilon) + torch.where(mask, masked_mean(x, mask), 0)
