"""Sums and moments over the valid tokens of a padded tensor."""

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sums the elements where the mask is True; the other elements may be anything, including NaN.

    Args:
        x: Tensor of any shape.
        mask: Tensor of the same shape, True where an element counts.
        dim: Dimension to sum over; None sums over all dimensions.
    """
    return torch.where(mask, x, 0).sum() if dim is None else torch.where(mask, x, 0).sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Averages the elements where the mask is True; the average of no elements is 0.

    Args:
        x: Tensor of any shape.
        mask: Tensor of the same shape, True where an element counts.
        dim: Dimension to average over; None averages over all dimensions.
    """
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Computes the population variance of the elements where the mask is True.

    Args:
        x: Tensor of any shape.
        mask: Tensor of the same shape, True where an element counts.
    """
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def masked_whiten(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Shifts and scales the elements where the mask is True to mean 0 and variance 1; the others become 0.

    The variance is the population variance, as in OpenAI's lm-human-preferences (`tf.nn.moments`).

    Args:
        x: Tensor of any shape, such as (B, R) advantages.
        mask: Tensor of the same shape, True where an element counts.
        epsilon: Added to the variance.
    """
    whitened = (x - masked_mean(x, mask)) * torch.rsqrt(masked_var(x, mask) + epsilon)
    return torch.where(mask, whitened, 0)


def masked_unit_variance(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Scales the elements where the mask is True to variance 1 and keeps their mean; the others become 0.

    lm-human-preferences transforms rewards in this way ("whitening with shift_mean=False"). The mean is kept because it
    says whether the responses are good at all.

    Args:
        x: Tensor of any shape, such as (B, R) rewards.
        mask: Tensor of the same shape, True where an element counts.
        epsilon: Added to the variance.
    """
    return masked_whiten(x, mask, epsilon=epsilon) + torch.where(mask, masked_mean(x, mask), 0)
