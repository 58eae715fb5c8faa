"""How diverse responses are."""

import torch
from torch import Tensor


def distinct(ids: Tensor, mask: Tensor, n: int) -> float:
    """Distinct-n: the number of different n-grams divided by the number of all n-grams, over all responses together.

    The n-grams consist of token ids, so the measure works for every language. Source: Li et al., "A
    diversity-promoting objective function for neural conversation models" (2016).

    Args:
        ids: (B, R) token ids.
        mask: (B, R) response mask.
        n: The number of tokens in an n-gram.

    Returns:
        A share; 1 if there is no n-gram.
    """
    if ids.shape[1] < n:
        return 1.0
    ngrams = ids.unfold(1, n, 1)[mask.unfold(1, n, 1).all(-1)]  # (N, n)
    # Each n-gram becomes one number, because sorting numbers is ten times faster than sorting rows.
    numbers = (ngrams * (ids.max() + 1) ** torch.arange(n, device=ids.device)).sum(1)
    return len(numbers.unique()) / len(numbers) if len(numbers) else 1.0
