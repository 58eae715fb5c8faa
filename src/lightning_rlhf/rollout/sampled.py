"""Sampled responses in the layout of the update: prompts padded at the left, responses at the right.

Shapes: B rows, P prompt tokens, R response tokens, T = P + R.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.experience import Sequences
from lightning_rlhf.ops.sequences import response_mask
from lightning_rlhf.rollout.engines.engine import Completion, Decode, Request, RolloutEngine, in_order
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import RandomKey


class Sampled(NamedTuple):
    """Responses to a batch of prompts."""

    sequences: Sequences
    finished: Tensor
    """(B,) bool: True if the response ended with a stop token, False if it reached the length limit."""
    logprobs: Tensor
    """(B, R) log-probs of the tokens in the distribution that they were drawn from, in nats; 0 after the response.

    They are NaN if the model's logits are NaN; the tokens are meaningless then.
    """
    weights_version: Tensor
    """(B, 1) int64 version of the weights that the engine drew with: the number of optimizer steps that led to them."""
    entropies: Tensor | None = None
    """(B, R) entropies of these distributions, in nats; 0 after the response; None if the engine gave none."""


def sample(
    engine: RolloutEngine,
    input_ids: Tensor,
    attention_mask: Tensor,
    keys: Sequence[RandomKey],
    sampling: Sampling,
    *,
    stop_ids: tuple[int, ...],
    decode: Decode | None = None,
) -> Sampled:
    """Draws a response to each prompt of a batch.

    Args:
        engine: The engine that draws the responses.
        input_ids: (B, P) prompts, padded at the left.
        attention_mask: (B, P) bool.
        keys: B keys, each of which names the random numbers of one response.
        sampling: Settings of the sampling distribution.
        stop_ids: Token ids, any of which ends a response.
        decode: Turns ids into text; needed if `sampling` has texts that end a response.

    Returns:
        Responses with R = `max_new_tokens` columns, 0 after the stop token, on the device of the prompts.
    """
    everything = len(input_ids)
    ((_, sampled),) = sample_parts(
        engine, input_ids, attention_mask, keys, sampling, everything, stop_ids=stop_ids, decode=decode
    )
    return sampled


def sample_parts(
    engine: RolloutEngine,
    input_ids: Tensor,
    attention_mask: Tensor,
    keys: Sequence[RandomKey],
    sampling: Sampling,
    at_a_time: int,
    *,
    as_they_end: bool = False,
    stop_ids: tuple[int, ...],
    decode: Decode | None = None,
    entropy: bool = False,
) -> Iterator[tuple[list[int], Sampled]]:
    """Yields the rows and the responses of one part of a batch after the other, as soon as all of them have ended.

    Args:
        engine: The engine that draws the responses.
        input_ids: (B, P) prompts, padded at the left.
        attention_mask: (B, P) bool.
        keys: B keys, each of which names the random numbers of one response.
        sampling: Settings of the sampling distribution.
        at_a_time: Number of responses of a part; the last part may have fewer.
        as_they_end: Whether a part consists of the responses that have ended next; otherwise the parts come in the
            order of the rows.
        stop_ids: Token ids, any of which ends a response.
        decode: Turns ids into text; needed if `sampling` has texts that end a response.
        entropy: Whether to ask the engine for entropies.
    """
    prompts = [ids[mask].tolist() for ids, mask in zip(input_ids.cpu(), attention_mask.cpu(), strict=True)]
    requests = [Request(prompt, key, entropy) for prompt, key in zip(prompts, keys, strict=True)]
    completions: list[Completion] = []
    ended: dict[int, Completion] = {}
    given = 0

    def next_rows() -> list[int]:
        """The rows of the next part, if all of them have ended."""
        size = min(at_a_time, len(requests) - given)
        rows = [row for row in (list(ended)[:size] if as_they_end else range(given, given + size)) if row in ended]
        return rows if len(rows) == size else []

    # An engine that cannot end responses at texts need not take the argument.
    texts: dict[str, Any] = {"decode": decode} if sampling.stop else {}
    for completion in engine.iterate(requests, sampling, stop_ids=stop_ids, **texts):
        completions.append(completion)
        ended[completion.request] = completion
        while rows := next_rows():
            given += len(rows)
            some = [ended.pop(row) for row in rows]
            yield rows, _in_columns(some, input_ids[rows], attention_mask[rows], sampling.max_new_tokens)
    in_order(completions, len(requests))


def _in_columns(completions: Sequence[Completion], input_ids: Tensor, attention_mask: Tensor, width: int) -> Sampled:
    """Lays the responses to (B, P) prompts out in `width` columns."""
    device = input_ids.device
    tokens = _padded([c.ids for c in completions], width, torch.long).to(device)
    mask = response_mask(torch.tensor([len(c.ids) for c in completions], dtype=torch.long), width).to(device)
    entropies = [c.entropies for c in completions if c.entropies is not None]
    return Sampled(
        Sequences(torch.cat([input_ids, tokens], dim=1), torch.cat([attention_mask, mask], dim=1), mask),
        torch.tensor([c.finish_reason == "stop" for c in completions], dtype=torch.bool, device=device),
        _padded([c.logprobs for c in completions], width, torch.float32).to(device),
        torch.tensor([c.weights_version for c in completions], dtype=torch.long, device=device)[:, None],
        None if len(entropies) < len(completions) else _padded(entropies, width, torch.float32).to(device),
    )


def _padded(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> Tensor:
    """Pads each row with 0 on the right, to shape (B, width)."""
    padded = torch.zeros(len(rows), width, dtype=dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded
