"""Sampling with a key-value cache.

Each row of random numbers belongs to a row of the global rollout batch, not to a process or a place in a batch. How
rows are spread over ranks and micro-batches therefore changes a response only where rounding changes the net's logits,
since batches of another size go through other kernels. In fp32 that is rare: of 256 responses, 0 to 2 come out
differently. In bf16 and with weights in int8 nothing is promised: in bf16, 20 to 70% of them do, since one other token
changes all that follow.

Tokens are drawn by the inverse of the distribution function, whose sums are in fp64: each of 128,000 tokens is drawn
with its probability to within 10⁻¹¹. Rows that are finished leave the batch once half of it is done.

Shapes: B rows, P prompt tokens (padded at the left), R new tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lightning_rlhf.distributed.phases import finished_everywhere
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import last_logits, position_arguments
from lightning_rlhf.ops.sequences import response_mask


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn."""

    max_new_tokens: int
    """Length limit of a response."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token each time (greedy)."""
    top_k: int = 0
    """Draw from the likeliest so many tokens only; 0 from all."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this probability; 1 from all."""

    def __post_init__(self) -> None:
        """Checks the values."""
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.temperature < 0:
            problems.append(f"temperature={self.temperature}: must not be negative (0 is greedy)")
        if self.top_k < 0:
            problems.append(f"top_k={self.top_k}: must not be negative (0 draws from all tokens)")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p}: must lie in (0, 1] (1 draws from all tokens)")
        raise_problems(problems)

    def check_for_rollout(self) -> None:
        """Checks that the sampling distribution is one whose log-probs PPO can compute again.

        Raises:
            UserError: If tokens are cut off or sampling is greedy.
        """
        if self.temperature == 0 or self.top_k or self.top_p < 1:
            raise UserError(
                f"rollout: temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}: PPO compares "
                "log-probs of the distribution that was sampled from, so it must be the whole one: set top_k=0, "
                "top_p=1 and a temperature above 0"
            )


class Sampled(NamedTuple):
    """Responses to a batch of prompts."""

    sequences: Sequences
    finished: Tensor
    """(B,) bool: ended with a stop token; otherwise the length limit cut it."""
    logprobs: Tensor
    """(B, R) of the drawn tokens in the distribution that they were drawn from, in nats; 0 after the response.

    NaN if the net's logits are: then the tokens mean nothing.
    """


def sample(
    net: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    sampling: Sampling,
    *,
    stop_ids: tuple[int, ...],
    uniforms: Tensor,
) -> Sampled:
    """Draws one response for each prompt.

    Args:
        net: A causal language model, in evaluation mode; one of Hugging Face's, or called like one.
        input_ids: (B, P) prompts, padded at the left.
        attention_mask: (B, P) bool.
        sampling: How to draw.
        stop_ids: Ids that end a response; each of them counts.
        uniforms: (B, R) numbers in (0, 1], one for each token that may be drawn; on any device.

    Returns:
        Responses of R = `max_new_tokens` columns, 0 after the stop token.
    """
    num_rows, device = len(input_ids), input_ids.device
    tokens = torch.zeros(num_rows, sampling.max_new_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(num_rows, sampling.max_new_tokens, dtype=torch.float32, device=device)
    stops = torch.tensor(stop_ids, device=device)
    rows = torch.arange(num_rows, device=device)
    finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
    # Apple's GPUs have no fp64.
    uniforms = uniforms.to("cpu" if device.type == "mps" else device)
    mask, new_ids, cache = attention_mask, input_ids, None
    for step in range(sampling.max_new_tokens):
        positions = position_arguments(net, mask, num_new=new_ids.shape[1])
        logits, output = last_logits(net, new_ids, 1, past_key_values=cache, use_cache=True, **positions)
        cache = output.past_key_values
        drawn, logprobs[rows, step] = _draw(logits[:, -1], uniforms[rows.to(uniforms.device), step], sampling)
        tokens[rows, step] = drawn
        finished[rows] |= torch.isin(drawn, stops)
        active = ~finished[rows]
        num_active = int(active.sum())
        if finished_everywhere(num_active == 0):
            break
        if 0 < num_active <= len(rows) // 2 and hasattr(cache, "batch_select_indices"):
            kept = active.nonzero().flatten()
            cache.batch_select_indices(kept)
            rows, mask, drawn = rows[kept], mask[kept], drawn[kept]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        new_ids = drawn[:, None]
    # Rows that have stopped draw on until they leave the batch: what stands behind the first stop token is dropped.
    valid = response_mask(tokens, stops)
    sequences = Sequences(
        torch.cat([input_ids, torch.where(valid, tokens, 0)], dim=1), torch.cat([attention_mask, valid], dim=1), valid
    )
    return Sampled(sequences, finished, torch.where(valid, logprobs, 0))


def _draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draws a token from each row of logits (B, V), by the numbers (B,).

    Returns:
        Tokens and their log-probs, both (B,).
    """
    if sampling.temperature == 0:
        largest, tokens = logits.float().max(-1)
        return tokens, torch.zeros_like(largest).masked_fill(~largest.isfinite(), torch.nan)
    logits = logits.float() / sampling.temperature
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    if sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    probs = logits.softmax(-1)
    drawn = invert(probs, uniforms)[:, None]
    return drawn[:, 0], probs.gather(1, drawn)[:, 0].log()


def invert(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Finds the tokens at which the distribution function reaches given numbers.

    In fp32, the sums of a large vocabulary would swallow the smallest probabilities. An exponential race would be exact
    as well, but takes a random number for each token of the vocabulary: four times as long for 128,000 on a CPU.

    Args:
        probs: (B, V) in fp32, which need not add up to 1 exactly.
        uniforms: (B,) numbers in (0, 1].

    Returns:
        (B,) tokens, on the device of `probs`.
    """
    cumulative = probs.to(uniforms.device).cumsum(-1, dtype=torch.float64)
    # The numbers are above 0 and the total is the last entry: so a token of probability 0 is never found.
    found = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:])
    # NaN is not found at all: the place behind the last token would be an error of indices, or end a GPU's process.
    return found[:, 0].clamp(max=probs.shape[-1] - 1).to(probs.device)
