"""Measures what `model.compile` gains and costs when the native engine samples on this machine.

    python benchmarks/compiling.py MODEL [repeats]

MODEL is a model of `conf/model`, such as gpt2/bench_tiny; its weights are random. A model as it is and a compiled one
take turns with the same 8 prompts of 32 tokens and 32 tokens for each response, on one thread. The script prints the
seconds of the first rollout, which compiles, and of the second one, and medians over the repeats.
"""

import os
import sys
import time
from statistics import median
from typing import NamedTuple

# What an earlier run has compiled would be found again.
os.environ |= {"HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.rollout.engines.engine import Request
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.seeding import SAMPLING, RandomKey

ROWS, PROMPT, RESPONSE = 8, 32, 32
REQUESTS = [
    Request([7 * row + token + 1 for token in range(PROMPT)], RandomKey(0, (SAMPLING,), row)) for row in range(ROWS)
]


class Turn(NamedTuple):
    """The seconds of a rollout."""

    wall: float
    cpu: float


def engine(model: str, *, compiled: bool) -> NativeEngine:
    """An engine for a model with random weights."""
    settings = [f"model={model}", "model.pretrained=null", "model.tokenizer=none", f"model.compile={compiled}"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", settings)
    net = load_causal_lm(instantiate(config.model, _convert_="all"))
    return NativeEngine(net.eval(), torch.device("cpu"), max_rows=ROWS)


def turn(sampler: NativeEngine) -> Turn:
    """Samples once. No token ends a response."""
    wall, cpu = time.perf_counter(), time.process_time()
    sampler.generate(REQUESTS, Sampling(max_new_tokens=RESPONSE), stop_ids=())
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Prints the figures."""
    torch.set_num_threads(1)
    model, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15
    engines = {name: engine(model, compiled=name == "compiled") for name in ("as it is", "compiled")}
    for name, sampler in engines.items():
        first, second = turn(sampler), turn(sampler)
        print(f"{model}, {name}: first rollout {first.wall:.1f} s, second {second.wall:.2f} s", flush=True)
    turns: dict[str, list[Turn]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, sampler in engines.items():
            turns[name].append(turn(sampler))
    for name, taken in turns.items():
        rates = [ROWS * RESPONSE / median(seconds) for seconds in zip(*taken, strict=True)]
        print(f"{model}, {name}: {rates[0]:,.0f} tokens/s by the clock, {rates[1]:,.0f} by CPU time")


if __name__ == "__main__":
    main()
