"""Rollouts of transformers: python benchmarks/peers/transformers_generate.py WORK.json RESULT.json [continuous].

`generate` answers prompts in fixed batches, padded on the left, and a batch takes as long as its longest response.
`continuous` uses `generate_batch`, with SDPA and small pages, since a page of 256 tokens would be mostly empty. The
environment is `transformers`.
"""

import sys
import time
from collections.abc import Callable

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from work import Work, read, write


def main() -> None:
    """Samples."""
    work = read()
    net, prompts = work.causal_lm().eval(), work.ids()
    settings = GenerationConfig(
        max_new_tokens=work.most,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=None if work.mean is None else work.eos,
        pad_token_id=work.eos,
    )
    sample = continuous if "continuous" in sys.argv else in_batches
    write(**measured(work, lambda: sample(work, net, prompts, settings)))


def measured(work: Work, sample: Callable[[], int]) -> dict[str, float]:
    """Tokens per second of repeated rollouts.

    Args:
        work: The work.
        sample: Makes a rollout, and returns the number of tokens of its responses.
    """
    tokens, seconds = 0, 0.0
    for number in range(work.warmup + work.repeats):
        torch.manual_seed(work.seed + number)
        start = time.perf_counter()
        count = sample()
        if number >= work.warmup:
            tokens, seconds = tokens + count, seconds + time.perf_counter() - start
    return {"rate": tokens / seconds, "seconds": seconds / work.repeats, "tokens": tokens / work.repeats}


@torch.no_grad()
def in_batches(work: Work, net, prompts: list[list[int]], settings: GenerationConfig) -> int:
    """Answers fixed batches, and returns the number of tokens."""
    tokens = 0
    for first in range(0, len(prompts), work.batch):
        some = prompts[first : first + work.batch]
        width = max(map(len, some))
        ids = torch.tensor([[work.eos] * (width - len(row)) + row for row in some])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in some])
        out = net.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:]
        if work.mean is None:
            tokens += out.numel()
        else:
            ended = (out == work.eos).cumsum(1)
            # Everything up to the first EOS, which counts.
            tokens += int((ended - (out == work.eos).long() == 0).sum())
    return tokens


def continuous(work: Work, net, prompts: list[list[int]], settings: GenerationConfig) -> int:
    """Answers all prompts with continuous batching, and returns the number of tokens.

    Raises:
        RuntimeError: If not every prompt was answered; `generate_batch` only logs errors.
    """
    pages = -(-(work.longest + work.most) // 16) + 1
    config = ContinuousBatchingConfig(page_size=16, num_blocks=pages * work.batch, max_requests_per_batch=work.batch)
    out = net.generate_batch(inputs=prompts, generation_config=settings, continuous_batching_config=config)
    if len(out) != len(prompts):
        raise RuntimeError(f"{len(out)} of {len(prompts)} prompts were answered")
    return sum(len(one.generated_tokens) for one in out.values())


if __name__ == "__main__":
    main()
