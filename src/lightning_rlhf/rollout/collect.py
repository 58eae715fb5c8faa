"""From prompts to experience.

Shapes: B rows of one rank, N rows of all ranks, P prompt tokens, R response tokens.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_rlhf.experience import Experience, Sequences
from lightning_rlhf.models.roles import Roles
from lightning_rlhf.ops.advantages import explained_variance, gae
from lightning_rlhf.ops.kl import kl_estimates
from lightning_rlhf.ops.masked import masked_mean, masked_sum, masked_whiten
from lightning_rlhf.ops.rewards import shape_rewards
from lightning_rlhf.rollout.sampler import Sampling, sample
from lightning_rlhf.strategies.collectives import gather_rows


class Samples(NamedTuple):
    """Sampled responses and what the four roles say of them."""

    sequences: Sequences
    logprobs: Tensor
    """(B, R) under the actor."""
    entropy: Tensor
    """(B, R) of the actor."""
    ref_logprobs: Tensor
    """(B, R) under the reference."""
    values: Tensor
    """(B, R) of the critic."""
    scores: Tensor
    """(B,) from the reward source."""
    finished: Tensor
    """(B,) bool."""


def collect(
    roles: Roles,
    input_ids: Tensor,
    attention_mask: Tensor,
    sampling: Sampling,
    *,
    stop_ids: tuple[int, ...],
    uniforms: Tensor,
    micro_batch_size: int,
    score: Callable[[Sequences, slice], Tensor],
) -> Samples:
    """Samples a response to each prompt of this rank and scores it, a few rows at a time.

    Args:
        roles: The four roles.
        input_ids: (B, P) prompts, padded at the left.
        attention_mask: (B, P) bool.
        sampling: How to draw.
        stop_ids: Ids that end a response.
        uniforms: (B, R) numbers in (0, 1].
        micro_batch_size: Rows that go through the nets at a time.
        score: Gives the (b,) scores of some sequences, and is told which of the rows they are.
    """
    parts = []
    for rows in chunks(len(input_ids), micro_batch_size):
        sequences, finished = sample(
            roles.generator(),
            input_ids[rows],
            attention_mask[rows],
            sampling,
            stop_ids=stop_ids,
            uniforms=uniforms[rows],
        )
        parts.append(score_samples(roles, sequences, finished, sampling.temperature, score(sequences, rows)))
    sequences = Sequences(*(torch.cat(tensors) for tensors in zip(*(part.sequences for part in parts), strict=True)))
    return Samples(sequences, *(torch.cat(tensors) for tensors in zip(*(part[1:] for part in parts), strict=True)))


def score_samples(roles: Roles, sequences: Sequences, finished: Tensor, temperature: float, scores: Tensor) -> Samples:
    """Asks actor, reference and critic about sampled sequences.

    The actor's log-probs come from the scorer that the update uses, not from the sampler: so the ratio of the first
    update is 1 up to rounding. Columns that no row uses are not computed.
    """
    trimmed = sequences.rows(slice(None))
    stats = roles.actor_stats(trimmed, temperature=temperature, entropy_grad=False)
    ref_logprobs = roles.ref_logprobs(trimmed, temperature=temperature)
    values = roles.values(trimmed)
    width = sequences.response_mask.shape[1]

    def widen(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, width - tensor.shape[1]))

    return Samples(
        sequences, widen(stats.logprobs), widen(stats.entropy), widen(ref_logprobs), widen(values), scores, finished
    )


def gather_samples(samples: Samples) -> Samples:
    """The samples of all ranks, in the order of the global rollout batch, on every rank."""
    return Samples(Sequences(*map(gather_rows, samples.sequences)), *map(gather_rows, samples[1:]))


def to_experience(
    samples: Samples, *, kl_coef: float, gamma: float, gae_lambda: float
) -> tuple[Experience, dict[str, float]]:
    """Turns the samples of all ranks to advantages and returns.

    Args:
        samples: Of all ranks.
        kl_coef: Weight of the KL penalty in the rewards.
        gamma: Discount.
        gae_lambda: Of the advantage estimate.

    Returns:
        The experience, and what is worth logging of it: averages over responses, of sums over tokens.
    """
    mask = samples.sequences.response_mask
    kl = kl_estimates(samples.logprobs, samples.ref_logprobs)
    rewards = shape_rewards(samples.scores, kl.k1, mask, kl_coef=kl_coef)
    advantages, returns = gae(rewards, samples.values, mask, gamma=gamma, gae_lambda=gae_lambda)
    experience = Experience(
        samples.sequences,
        samples.logprobs,
        samples.ref_logprobs,
        samples.values,
        masked_whiten(advantages, mask),
        returns,
    )
    metrics = {
        "score_mean": samples.scores.mean(),
        "score_std": samples.scores.std(correction=0),
        "kl": masked_sum(kl.k1, mask, dim=1).mean(),
        "kl_k2": masked_sum(kl.k2, mask, dim=1).mean(),
        "kl_k3": masked_sum(kl.k3, mask, dim=1).mean(),
        "reward_mean": rewards.sum(1).mean(),
        "entropy": masked_mean(samples.entropy, mask),
        "response_length": mask.sum(1).float().mean(),
        "eos_rate": samples.finished.float().mean(),
        "value_mean": masked_mean(samples.values, mask),
        "return_mean": masked_mean(returns, mask),
        "explained_variance": explained_variance(samples.values, returns, mask),
    }
    return experience, {name: float(value) for name, value in metrics.items()} | {"kl_coef": kl_coef}


def chunks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `range(length)`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
