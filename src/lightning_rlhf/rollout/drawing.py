"""Draws the responses of a rollout, and asks the reward about them.

Shapes: B rows of this rank, R response tokens.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from lightning_rlhf.data.batches import PromptBatch
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.rollout.engines.engine import RolloutEngine
from lightning_rlhf.rollout.judging import Judge
from lightning_rlhf.rollout.nested import combined, rows_at
from lightning_rlhf.rollout.sampled import Sampled, sample_parts
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.texts import decode, decoder
from lightning_rlhf.seeding import RandomKey


class Drawn(NamedTuple):
    """Responses to all prompts of this rank, and what the reward says about them."""

    sampled: Sampled
    responses: list[str]
    """The texts of the B responses."""
    scores: Callable[[list[int]], Scores]
    """Gives the scores of some rows."""


def draw(
    engine: RolloutEngine,
    prompts: PromptBatch,
    keys: Sequence[RandomKey],
    sampling: Sampling,
    renderer: Renderer,
    judge: Judge,
    at_a_time: int,
    *,
    as_they_end: bool,
    entropy: bool,
) -> Drawn:
    """Samples a response to each prompt.

    Args:
        engine: The engine that draws the responses.
        prompts: B prompts, on the device of the models.
        keys: B keys, each of which names the random numbers of one response.
        sampling: Settings of the sampling distribution.
        renderer: Turns tokens into text.
        judge: Asks the reward: about the next `at_a_time` responses as soon as they have ended if it has threads for
            it, and otherwise about the rows whose scores are wanted.
        at_a_time: Number of responses.
        as_they_end: Whether the next responses are those that end next, and not those of the next prompts.
        entropy: Whether to ask the engine for entropies.
    """
    drawn = sample_parts(
        engine,
        prompts.input_ids,
        prompts.attention_mask,
        keys,
        sampling,
        at_a_time,
        as_they_end=as_they_end,
        stop_ids=renderer.stop_ids,
        decode=decoder(renderer),
        entropy=entropy,
    )
    order, parts, texts, waiting = list[int](), [], list[str](), []
    for rows, part in drawn:
        answers = to_answers(part.sequences, prompts.rows(rows), renderer)
        order += rows
        parts.append(part)
        texts += answers.responses
        if judge.beside:
            waiting.append(judge(answers))
    places = sorted(range(len(order)), key=order.__getitem__)
    sampled, responses = rows_at(combined(parts, torch.cat), places), [texts[place] for place in places]
    if not judge.beside:
        whole = Answers(sampled.sequences, prompts.texts, responses, prompts.columns)
        return Drawn(sampled, responses, lambda rows: judge(_at(whole, rows))())
    width = sampled.sequences.response_mask.shape[1]

    @cache
    def everything() -> Scores:
        return rows_at(combined([_widened(scores(), width) for scores in waiting], torch.cat), places)

    return Drawn(sampled, responses, lambda rows: rows_at(everything(), rows))


def to_answers(sequences: Sequences, prompts: PromptBatch, renderer: Renderer) -> Answers:
    """Adds the texts of prompts and responses, as a reward source needs them."""
    texts = decode(sequences, renderer)
    return Answers(sequences.rows(slice(None)), prompts.texts, texts, prompts.columns)


def _at(answers: Answers, rows: list[int]) -> Answers:
    """The answers of some rows, without the columns that none of them uses."""
    return Answers(
        answers.sequences.rows(rows),
        [answers.prompts[row] for row in rows],
        [answers.responses[row] for row in rows],
        [answers.columns[row] for row in rows],
    )


def _widened(scores: Scores, width: int) -> Scores:
    """The scores with a column for each of R = `width` tokens, because the reward gets trimmed columns."""
    if scores.tokens is None:
        return scores._replace(tokens=scores.whole.new_zeros(len(scores.whole), width))
    return scores._replace(tokens=pad(scores.tokens, (0, width - scores.tokens.shape[1])))
