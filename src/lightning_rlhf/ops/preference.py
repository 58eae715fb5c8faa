"""Losses of direct preference optimization, which learn from pairs of responses without a reward model.

The implicit reward of a response is r = beta · (log p_policy - log p_reference). The loss of a pair depends only on the
margin by which the log-ratio of the chosen response exceeds that of the rejected one.

Shapes: B pairs. Log-probs are those of whole responses, summed over tokens up to and including the stop token, in nats.
The log-probs of the reference may be 0 (reference-free).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid


def log_ratio_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor | float, ref_rejected: Tensor | float
) -> Tensor:
    """Computes how much more the policy favours the chosen responses than the reference does (h in Azar et al., 2023).

    Args:
        policy_chosen: (B,) log-probs of the chosen responses under the policy.
        policy_rejected: (B,) of the rejected ones.
        ref_chosen: (B,) of the chosen responses under the reference, or 0.
        ref_rejected: (B,) of the rejected ones, or 0.

    Returns:
        (B,) margins, in nats.
    """
    return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor | float,
    ref_rejected: Tensor | float,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes -(1 - e) logsigmoid(beta·h) - e logsigmoid(-beta·h) for each pair, with h of `log_ratio_margin`.

    Source: Rafailov et al., "Direct Preference Optimization" (2023), equation 7. Label smoothing e is that of the
    conservative loss of E. Mitchell, "A note on DPO with noisy preferences & relationship to IPO" (2023).

    Args:
        policy_chosen: (B,) log-probs of the chosen responses under the policy.
        policy_rejected: (B,) of the rejected ones.
        ref_chosen: (B,) of the chosen responses under the reference, or 0.
        ref_rejected: (B,) of the rejected ones, or 0.
        beta: The larger, the nearer the policy stays to the reference.
        label_smoothing: The share of pairs whose label is taken to be wrong.

    Returns:
        (B,).
    """
    logits = beta * log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor | float,
    ref_rejected: Tensor | float,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Computes (1 - e) (h - 1/(2·beta))² + e (h + 1/(2·beta))² for each pair, with h of `log_ratio_margin`.

    Where labels are certain, h has a finite target, whereas h of DPO grows without bound. As in the paper, log-probs
    are sums over tokens. TRL uses means over tokens, so divide a beta for TRL by the approximate length of a response.

    Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences" (2023),
    equation 17, where beta is called tau. Label smoothing e weights the losses of both labels, as in `dpo_loss`.

    Args:
        policy_chosen: (B,) log-probs of the chosen responses under the policy.
        policy_rejected: (B,) of the rejected ones.
        ref_chosen: (B,) of the chosen responses under the reference, or 0.
        ref_rejected: (B,) of the rejected ones, or 0.
        beta: The larger, the nearer the policy stays to the reference.
        label_smoothing: The share of pairs whose label is taken to be wrong.

    Returns:
        (B,).
    """
    margin, aim = log_ratio_margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected), 1 / (2 * beta)
    return (1 - label_smoothing) * (margin - aim).square() + label_smoothing * (margin + aim).square()


PREFERENCE_LOSSES: dict[str, Callable[..., Tensor]] = {"sigmoid": dpo_loss, "ipo": ipo_loss}
"""Losses by the names that are common in the literature; all take the same arguments."""
