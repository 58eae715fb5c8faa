"""Log-probabilities and entropies of tokens.

Shapes: B rows, R response tokens, V vocabulary.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token under the logits that predict it, in fp32.

    Args:
        logits: (B, R, V), row r predicts token r; already divided by the sampling temperature.
        tokens: (B, R) ids.

    Returns:
        (B, R), in nats.
    """
    flat = cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -flat.view_as(tokens)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution at each position, in fp32.

    Args:
        logits: (B, R, V), already divided by the sampling temperature.

    Returns:
        (B, R), in nats.
    """
    logprobs = logits.float().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)
