"""Compares the time of scoring and of an update with one model and with four: the second table of docs/memory.md.

    python benchmarks/shared_speed.py FOLDER [repeats]

FOLDER is the folder of memory_targets.py. Both variants are built in one process and take turns, and the medians are
printed. Scoring asks all four roles.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from memory_row import settings
from plan_run import configured

from lightning_rlhf.assembly.renderer import load_renderer
from lightning_rlhf.assembly.stage import prepare
from lightning_rlhf.experience import Answers, Sequences

ROWS, PROMPT, RESPONSE = 1, 400, 112


def roles_of(nets: Path, *overrides: str) -> Any:
    """The models that play the roles of PPO."""
    config = configured(nets, [*settings(nets, 1, RESPONSE), "adapter=lora", *overrides])
    module: Any = prepare(config, "ppo", nets, load_renderer(config)).module
    module.configure_model()
    return module.roles


def scoring(roles: Any, answers: Answers) -> Callable[[], None]:
    """Scoring by all four roles."""
    sequences = answers.sequences

    @torch.no_grad()
    def work() -> None:
        roles.actor_stats(sequences, temperature=1.0)
        roles.ref_logprobs(sequences, temperature=1.0)
        roles.values(sequences)
        roles.scores(answers)

    return work


def update(roles: Any, answers: Answers) -> Callable[[], None]:
    """An optimizer step of actor and critic."""
    weights = [weight for net in roles.trainable().values() for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6)

    def work() -> None:
        values = roles.values(answers.sequences)
        stats = roles.actor_stats(answers.sequences, temperature=1.0)
        (stats.logprobs.mean() + values.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def medians(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """The median seconds of each variant. The variants take turns, and the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times[1:]) for name, times in seconds.items()}


def main() -> None:
    """Prints the table."""
    nets, repeats = Path(sys.argv[1]).absolute() / "small", int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.manual_seed(0)
    ids = torch.randint(3, 800, (ROWS, PROMPT + RESPONSE))
    mask = torch.ones_like(ids, dtype=torch.bool)
    answers = Answers(Sequences(ids, mask, mask[:, :RESPONSE]), [""] * ROWS, [""] * ROWS, [{}] * ROWS)
    separate, shared = roles_of(nets), roles_of(nets, "roles=shared")
    variants = {"four models": separate, "one model": shared}
    scores = medians({name: scoring(roles, answers) for name, roles in variants.items()}, repeats)
    updates = medians({name: update(roles, answers) for name, roles in variants.items()}, repeats)
    print("| roles | scoring | update |\n| --- | --- | --- |")
    for name in variants:
        ratios = (times[name] / times["four models"] for times in (scores, updates))
        print("| " + " | ".join([name, *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    print(f"\nFour models: {scores['four models']:.2f} s and {updates['four models']:.2f} s.")


if __name__ == "__main__":
    main()
