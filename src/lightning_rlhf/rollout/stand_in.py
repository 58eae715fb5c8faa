"""Lets the sampler's log-probs stand for the actor's, so that no token is scored twice.

An engine that samples with the trained model computes the log-prob of each token when it draws it. The scorer computes
it again from the whole row: the same number with other rounding. Rounding is the question, therefore. In fp32 the two
differ by 1e-6 nats, so the sampler's numbers stand in for the scorer's. In 16 bits they differ by hundredths of a nat,
and then the scorer, whose rounding is that of the update, has to speak for the actor.

A rule says where the numbers are equal by construction, and each rollout checks it: every process scores its longest
response.

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
"""The largest difference of a token's log-prob or entropy, in nats, that counts as rounding in fp32.

Rounding caused 2e-6 where it was measured. Products in TF32, another expert that a router has chosen by rounding, and
wrong positions, masks or temperatures cause more. A ratio of 1 ± 1e-4 before the first update is far inside every clip
range.
"""


class ActorStats(NamedTuple):
    """What is known of the actor's distribution at each token."""

    stats: TokenStats
    """(B, R) log-probs and entropies; 0 after the response."""
    scored: Tensor
    """(B,) bool, whether the actor has scored the response; otherwise its numbers are the sampler's."""
    unmoved: Tensor
    """(B,) bool, alike for all responses: the actor is still its reference, whose log-probs are then the actor's.

    Its KL is 0 then, as it is if the actor scores all responses. Otherwise it would be rounding, which normalised
    advantages magnify where all responses get the same score.
    """


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
    in_fp32 = bool(weights) and all(weight.dtype == torch.float32 for weight in weights)
    return in_fp32 and not any(map(torch.is_autocast_enabled, devices))


def stand_in(roles: Roles, sampled: Sampled, temperature: float) -> ActorStats | None:
    """Checks on the longest response of each rank that sampler and scorer agree; all ranks call this together.

    Args:
        roles: The four roles; actor and reference are called once on every rank.
        sampled: The responses of this rank, at least one.
        temperature: The sampling temperature.

    Returns:
        The sampler's numbers, and the scorer's for the longest response. None if the engine gives no entropies, or if
        a number differs by more than `AGREEMENT` on any rank, so that all responses have to be scored on all ranks.
    """
    longest = [int(sampled.sequences.response_mask.sum(1).argmax())]
    row = sampled.sequences.rows(longest)
    proof = roles.actor_stats(row, temperature=temperature, entropy=True)
    assert proof.entropy is not None
    moved = not torch.equal(proof.logprobs, roles.ref_logprobs(row, temperature=temperature))
    width = proof.logprobs.shape[1]
    agrees = False
    if sampled.entropies is not None:
        pairs = ((proof.logprobs, sampled.logprobs), (proof.entropy, sampled.entropies))
        # NaN does not agree with anything.
        agrees = all(bool(((mine - theirs[longest, :width]).abs() <= AGREEMENT).all()) for mine, theirs in pairs)
    said = gather_objects([(agrees, moved)])
    if sampled.entropies is None or not all(agreed for agreed, _ in said):
        return None
    scored = torch.zeros_like(sampled.finished)
    logprobs, entropies = sampled.logprobs.clone(), sampled.entropies.clone()
    logprobs[longest, :width], entropies[longest, :width], scored[longest] = proof.logprobs, proof.entropy, True
    unmoved = torch.full_like(scored, not any(moved for _, moved in said))
    return ActorStats(TokenStats(logprobs, entropies), scored, unmoved)
