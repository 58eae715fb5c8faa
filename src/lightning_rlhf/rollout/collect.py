"""Turns prompts into samples: responses, together with what the four roles compute for them.

Shapes: B rows of this rank, P prompt tokens, R response tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_rlhf.data.batches import PromptBatch
from lightning_rlhf.data.budget import cut, num_parts
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.distributed.collectives import gather_objects, gather_rows
from lightning_rlhf.experience import Scores, Sequences
from lightning_rlhf.models.roles import Roles
from lightning_rlhf.rewards.remote import remote_of
from lightning_rlhf.rollout.drawing import Drawn, draw
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.judging import Judge
from lightning_rlhf.rollout.nested import combined, rows_at
from lightning_rlhf.rollout.sampled import Sampled
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.stand_in import ActorStats, may_stand_in, stand_in
from lightning_rlhf.seeding import RandomKey

_PARTS = 8
"""The least number of parts in which a reward that waits for other machines is asked about a rollout."""


class Greedy(NamedTuple):
    """Measurements of the greedy response to the prompt of each row."""

    scores: Tensor
    """(B,) scores of whole responses."""
    lengths: Tensor
    """(B,) numbers of tokens."""
    finished: Tensor
    """(B,) bool: the response ended with a stop token."""
    token_scores: Tensor
    """(B,) sums of the scores of single tokens."""


class Samples(NamedTuple):
    """Sampled responses, together with what the four roles compute for them."""

    sequences: Sequences
    scores: Scores
    finished: Tensor
    """(B,) bool: the response ended with a stop token."""
    sampler_logprobs: Tensor
    """(B, R) log-probs in the distribution that the sampler drew from."""
    weights_version: Tensor
    """(B, 1) int64 version of the weights that the sampler drew with."""
    scored: Tensor
    """(B,) bool: the actor scored the response.

    Otherwise `entropy` is the sampler's, and so is `logprobs` once the actor has moved from its reference.
    """
    logprobs: Tensor
    """(B, R) log-probs under the actor."""
    entropy: Tensor
    """(B, R) entropy of the actor."""
    ref_logprobs: Tensor
    """(B, R) log-probs under the reference."""
    values: Tensor | None
    """(B, R) values of the critic, if there is one."""
    exact_kl: Tensor | None = None
    """(B, R) KL over the whole vocabulary, if it was asked for."""
    greedy: Greedy | None = None
    """Measurements of greedy responses, if they were asked for."""


class Collected(NamedTuple):
    """What a rank collects."""

    samples: Samples
    responses: list[str]
    """The texts of the B responses."""


def collect(
    engine: RolloutEngine,
    roles: Roles,
    prompts: PromptBatch,
    sampling: Sampling,
    renderer: Renderer,
    *,
    keys: Sequence[RandomKey],
    micro_batch_size: int,
    max_tokens: int | None = None,
    exact_kl: bool = False,
    greedy: bool = False,
) -> Collected:
    """Samples a response to each prompt of this rank, and scores the responses in micro-batches of similar length.

    The actor scores only as many responses as it takes to prove that the sampler's numbers are its own; see `stand_in`.
    The reward is asked about the next `micro_batch_size` responses as soon as they have ended, unless it contains
    models, which score the micro-batches of the other roles. A reward that waits for other machines is asked about
    whichever responses end first, a few at a time.

    Args:
        engine: The engine that draws the responses.
        roles: The four roles.
        prompts: B prompts, on the device of the models.
        sampling: Settings of the sampling distribution.
        renderer: Turns tokens into text.
        keys: B keys, each of which names the random numbers of one response.
        micro_batch_size: Limit of the rows that are scored at a time.
        max_tokens: Limit of the tokens that are scored at a time, padding included; a longer row is scored by itself.
            None for none.
        exact_kl: Whether to compute the KL over the whole vocabulary too.
        greedy: Whether to score a greedy response to each prompt too.
    """
    remote = remote_of(roles.reward)
    asked = micro_batch_size if remote is None else min(remote.rows, -(-len(keys) // _PARTS))
    calls = 1 if remote is None else remote.calls
    with Judge(roles.scores, beside="reward" not in roles.nets(), calls=calls) as judge:

        def drawn(sampling: Sampling, *, entropy: bool) -> Drawn:
            as_they_end = remote is not None
            return draw(
                engine, prompts, keys, sampling, renderer, judge, asked, as_they_end=as_they_end, entropy=entropy
            )

        spares_actor = may_stand_in(engine, roles.generator(), sampling)
        sampled = drawn(sampling, entropy=spares_actor)
        likeliest = drawn(replace(sampling, temperature=0.0), entropy=False) if greedy else None
        known = stand_in(roles, sampled.sampled, sampling.temperature) if spares_actor else None
        lengths = sampled.sampled.sequences.attention_mask.sum(1).tolist()
        # Processes that divide a model wait for each other at each call, so that all of them need equally many.
        count = max(gather_objects([num_parts(lengths, max_tokens, micro_batch_size)]))
        order = list[int]()
        parts = []
        for rows in cut(lengths, count, micro_batch_size):
            part = score_samples(
                roles,
                rows_at(sampled.sampled, rows),
                sampled.scores(rows),
                sampling.temperature,
                exact_kl=exact_kl,
                known=rows_at(known, rows),
            )
            if likeliest is not None:
                best, judged = rows_at(likeliest.sampled, rows), likeliest.scores(rows)
                lengths_of_best = best.sequences.response_mask.sum(1)
                part = part._replace(greedy=Greedy(judged.whole, lengths_of_best, best.finished, judged.token_sums))
                if judged.dropped is not None and part.scores.dropped is not None:
                    # A response cannot be compared with a greedy one that has no score.
                    part = part._replace(scores=part.scores._replace(dropped=part.scores.dropped | judged.dropped))
            parts.append(part)
            order += rows
    places = sorted(range(len(order)), key=order.__getitem__)
    return Collected(rows_at(combined(parts, torch.cat), places), sampled.responses)


def score_samples(
    roles: Roles,
    sampled: Sampled,
    scores: Scores,
    temperature: float,
    *,
    exact_kl: bool = False,
    known: ActorStats | None = None,
) -> Samples:
    """Evaluates sampled sequences with the actor, the reference and the critic.

    The actor's log-probs are computed by the same code that the update uses, unless they are known. The ratio of the
    first update is therefore 1 up to rounding. Columns that no row uses are not computed.

    Args:
        roles: The four roles.
        sampled: The B responses.
        scores: Their scores.
        temperature: The sampling temperature.
        exact_kl: Whether to compute the KL over the whole vocabulary too.
        known: The actor's numbers, if they are known already; None lets the actor score the responses.
    """
    trimmed = sampled.sequences.rows(slice(None))
    width = sampled.sequences.response_mask.shape[1]

    def widen(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, width - tensor.shape[1]))

    stats = roles.actor_stats(trimmed, temperature=temperature, entropy=True) if known is None else known.stats
    assert stats.entropy is not None
    logprobs, ref_logprobs = widen(stats.logprobs), widen(roles.ref_logprobs(trimmed, temperature=temperature))
    values = roles.values(trimmed)
    # A source that scores no tokens counts as zeros, so that all micro-batches and ranks have the same tensors.
    tokens = scores.whole.new_zeros(trimmed.response_mask.shape) if scores.tokens is None else scores.tokens
    return Samples(
        sampled.sequences,
        scores._replace(tokens=widen(tokens)),
        sampled.finished,
        sampled.logprobs,
        sampled.weights_version,
        torch.ones_like(sampled.finished) if known is None else known.scored,
        logprobs=logprobs if known is None else torch.where(known.unmoved[:, None], ref_logprobs, logprobs),
        entropy=widen(stats.entropy),
        ref_logprobs=ref_logprobs,
        values=None if values is None else widen(values),
        exact_kl=widen(roles.exact_kl(trimmed, temperature=temperature)) if exact_kl else None,
    )


def gather_samples(samples: Samples) -> Samples:
    """Gives every rank the samples of all ranks, in the order of the global rollout batch."""
    return combined([samples], lambda tensors: gather_rows(tensors[0]))


def said_of(samples: Samples) -> dict[str, Tensor]:
    """Collects what the roles computed under names for people; numbers after the end of a response are 0."""
    said = {
        "log-probs of the actor that samples": samples.sampler_logprobs,
        "log-probs of the actor": samples.logprobs,
        "log-probs of the reference": samples.ref_logprobs,
        "values of the critic": samples.values,
    }
    mask = samples.sequences.response_mask
    tokens = {name: torch.where(mask, numbers, 0) for name, numbers in said.items() if numbers is not None}
    return {**tokens, "scores": samples.scores.total}
