"""Measures what it saves that the sampler's log-probs stand for the actor's; see docs/performance.md.

    python benchmarks/stand_in.py [MODEL] [repeats]

MODEL is a model of `conf/model` with random weights (gpt2/bench_tiny). 32 prompts of 32 tokens get responses of 32
tokens. Sampling with and without entropies takes turns, and so does scoring by reference and critic with and without
the actor. The script prints medians in milliseconds, and the largest differences between sampler and scorer in nats.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from lightning_rlhf.experience import Scores
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.models.roles import SeparateRoles
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.collect import score_samples
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.sampled import sample_parts
from lightning_rlhf.rollout.sampling import Sampling
from lightning_rlhf.rollout.stand_in import ActorStats
from lightning_rlhf.seeding import SAMPLING, RandomKey

ROWS, PROMPT, RESPONSE = 32, 32, 32
WHOLE = Sampling(max_new_tokens=RESPONSE)


def built(model: str) -> SeparateRoles:
    """Actor, reference and critic with random weights. The reward is never asked."""
    settings = [f"model={model}", "model.pretrained=null", "model.tokenizer=none"]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        source: ModelSource = instantiate(compose("train", settings).model, _convert_="all")
    return SeparateRoles(
        actor=load_causal_lm(source),
        # Another seed, so that the reference is not taken for the actor.
        reference=load_causal_lm(replace(source, seed=1)),
        critic=load_scalar_model(source, "normal"),
        reward=lambda answers: Scores(torch.zeros(len(answers.prompts)), {}),
    ).eval()


def in_turn(repeats: int, **works: Callable[[], Any]) -> dict[str, Any]:
    """Prints the median milliseconds of works that take turns, and returns what they returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    found = {}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            found[name] = work()
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        # The first turn makes what later ones find.
        print(f"{name.replace('_', ' ')}: {1000 * median(taken[1:]):,.0f} ms")
    return found


@torch.no_grad()
def main() -> None:
    """Prints the figures."""
    model = sys.argv[1] if len(sys.argv) > 1 else "gpt2/bench_tiny"
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    roles = built(model)
    engine = NativeEngine(roles.actor, torch.device("cpu"))
    vocabulary = roles.actor.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0))
    keys = [RandomKey(0, (SAMPLING,), row) for row in range(ROWS)]

    def sampled(*, entropy: bool) -> Any:
        mask = torch.ones_like(ids).bool()
        ((_, found),) = sample_parts(engine, ids, mask, keys, WHOLE, ROWS, stop_ids=(), entropy=entropy)
        return found

    drawn = in_turn(
        repeats,
        sampling_without_entropies=partial(sampled, entropy=False),
        sampling_with_entropies=partial(sampled, entropy=True),
    )["sampling_with_entropies"]
    nothing = torch.zeros_like(drawn.finished)
    known = ActorStats(TokenStats(drawn.logprobs, drawn.entropies), nothing, nothing)
    score = partial(score_samples, roles, drawn, Scores(torch.zeros(ROWS), {}), 1.0)
    scored = in_turn(repeats, scoring_with_the_actor=score, scoring_without_it=partial(score, known=known))
    actors = scored["scoring_with_the_actor"]
    for name, mine, theirs in (
        ("log-probs", drawn.logprobs, actors.logprobs),
        ("entropies", drawn.entropies, actors.entropy),
    ):
        print(f"{name} of sampler and scorer differ by at most {float((mine - theirs).abs().max()):.1e} nats")


if __name__ == "__main__":
    main()
