"""Compares the log-probs of an engine with those of the model that is trained, after weights were sent."""

from typing import TypeVar

import torch
from torch import nn

from lightning_rlhf.data.batches import pad
from lightning_rlhf.models.forward import response_stats
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.vllm_in_process import VllmEngine
from lightning_rlhf.rollout.engines.vllm_server import VllmServerEngine
from lightning_rlhf.rollout.sampled import sample
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

E = TypeVar("E", VllmEngine, VllmServerEngine)
CPU = torch.device("cpu")
# Two prompts are longer than a block of the prefix cache, and have the same beginning.
LONG = [token % 96 for token in range(0, 1400, 7)][:180]
PROMPTS = [[11], [12, 13, 14, 15], LONG, [*LONG[:150], 3, 4], list(range(40))]
KEYS = [RandomKey(1, (SAMPLING, 0), row) for row in range(len(PROMPTS))]


def pushed(engine: E, net: nn.Module, version: int) -> E:
    engine.update_weights(iter(net.state_dict().items()), version)
    return engine


@torch.no_grad()
def moved(net: nn.Module, seed: int) -> None:
    """Changes all weights as an update would, but far more."""
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)


@torch.no_grad()
def apart(engine: VllmEngine | VllmServerEngine, net: nn.Module, temperature: float = 1.0) -> float:
    """Returns the largest difference between the log-probs of the engine and of the model."""
    settings = Sampling(max_new_tokens=24, temperature=temperature)
    sampled = sample(engine, *pad(PROMPTS, "left"), KEYS, settings, stop_ids=(5,))
    scored = response_stats(net, sampled.sequences, temperature=temperature).logprobs
    mask = sampled.sequences.response_mask
    assert sampled.logprobs[mask].std() > 0.1
    assert set(sampled.weights_version.flatten().tolist()) == {engine.weights_version}
    return float((scored - sampled.logprobs)[mask].abs().max())


def responses(engine: VllmEngine | VllmServerEngine) -> list[list[int]]:
    """Returns the ids that the engine draws for some requests."""
    requests = [Request(prompt, key) for prompt, key in zip(PROMPTS, KEYS, strict=True)]
    return [answer.ids for answer in engine.generate(requests, Sampling(max_new_tokens=24), stop_ids=(5,))]
