"""Spares the actor the scoring of its own tokens where the sampler has computed the same numbers already.

An engine that samples with the trained model computes the log-prob of each token when it draws it. The scorer computes
it again from the whole row: the same number with other rounding. Rounding is the question, therefore. In fp32 the two
differ by 1e-6 nats, so the sampler's numbers stand in for the scorer's. In 16 bits they differ by hundredths of a nat,
and then the scorer, whose rounding is that of the update, has to speak for the actor.

A rule says where the numbers are equal by construction, and each rollout proves it: every process scores one response.

Shapes: B rows of this rank, R response tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_rlhf.distributed.collectives import gather_objects
from lightning_rlhf.models.adapters.merging import is_quantized
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.models.roles import Roles
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.sampled import Sampled
from lightning_rlhf.rollout.sampling import Sampling

AGREEMENT = 1e-4
"""The largest difference of a token's log-prob, in nats, that counts as rounding in fp32.

Rounding causes 1e-6, and up to 1e-5 in deep models. What is wrong causes more: products in TF32 1e-3, another expert
that a router has chosen by rounding 1e-2, a wrong position, mask or temperature 1e-1. A ratio of 1 ± 1e-4 before the
first update is far inside every clip range.
"""
ROUNDING = 1e-5
"""The largest difference of a token's log-prob, in nats, that rounding causes."""


class ActorStats(NamedTuple):
    """What is known of the actor's distribution at each token."""

    stats: TokenStats
    """(B, R) log-probs and entropies; 0 after the response."""
    scored: Tensor
    """(B,) bool, whether the actor has scored the response; otherwise its numbers are the sampler's."""


def may_stand_in(engine: RolloutEngine, actor: nn.Module, sampling: Sampling) -> bool:
    """Whether the sampler's log-probs should equal the scorer's up to rounding in fp32; the same on all processes.

    - The engine samples with the trained model itself, and not with a copy of it in a library that computes otherwise.
    - It draws from the whole distribution at the temperature, which is the one that the scorer computes.
    - The model computes in fp32 throughout: its weights are in fp32, none is quantized, and there is no autocast. A
      model in fp64 does not count, because engines draw in fp32.

    Args:
        engine: The engine.
        actor: The model that samples, in the context in which it is called.
        sampling: Settings of the sampling distribution.
    """
    if not engine.shares_weights or not sampling.is_whole or is_quantized(actor):
        return False
    weights = list(actor.parameters())
    devices = {weight.device.type for weight in weights}
    return all(weight.dtype == torch.float32 for weight in weights) and not any(map(torch.is_autocast_enabled, devices))


def stand_in(roles: Roles, sampled: Sampled, temperature: float) -> ActorStats | None:
    """Proves on the longest response of each rank that sampler and scorer agree; all ranks call this together.

    Args:
        roles: The four roles; the actor is called once on every rank.
        sampled: The responses of this rank, at least one.
        temperature: The sampling temperature.

    Returns:
        The sampler's numbers, and the scorer's for the longest response. None if the engine gives no entropies, or if
        a token differs by more than `AGREEMENT` on any rank, so that all responses have to be scored on all ranks.
    """
    if sampled.entropies is None:
        return None
    longest = [int(sampled.sequences.response_mask.sum(1).argmax())]
    proof = roles.actor_stats(sampled.sequences.rows(longest), temperature=temperature, entropy=True)
    assert proof.entropy is not None
    width = proof.logprobs.shape[1]
    apart = (proof.logprobs - sampled.logprobs[longest, :width]).abs().max()
    # NaN does not agree with anything.
    if not all(gather_objects([bool(apart <= AGREEMENT)])):
        return None
    scored = torch.zeros_like(sampled.finished)
    logprobs, entropies = sampled.logprobs.clone(), sampled.entropies.clone()
    logprobs[longest, :width], entropies[longest, :width], scored[longest] = proof.logprobs, proof.entropy, True
    return ActorStats(TokenStats(logprobs, entropies), scored)


def unrounded(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Lets log-probs that differ from the reference's by rounding alone equal them.

    The KL of an actor that has not moved from its reference is then 0, as it is if the actor scores all responses.
    Otherwise it would be noise, which normalised advantages magnify where all responses get the same score.

    Args:
        logprobs: (B, R) log-probs of the actor, from the sampler or from a call of other rows than the reference's.
        ref_logprobs: (B, R) log-probs under the reference.

    Returns:
        (B, R) log-probs of the actor.
    """
    # NaN is no rounding, and stays.
    return torch.where((logprobs - ref_logprobs).abs() <= ROUNDING, ref_logprobs, logprobs)
