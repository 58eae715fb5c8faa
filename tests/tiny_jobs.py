"""A stage for the planner, with models whose parameters are counted by hand."""

from typing import Any

from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import by_kind
from lightning_rlhf.planner.plan import Plan

SOURCE = ModelSource(
    config={"model_type": "gpt2", "vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 5, "n_head": 4},
    tokenizer="none",
)
# Parameters of GPT-2 by hand. A block has attention 32·96 + 96 and 32·32 + 32, feed-forward 32·128 + 128 and
# 128·32 + 32, and two norms of 64. Outside the blocks there are 100·32 for tokens (the head is tied to them), 64·32 for
# positions, and a norm of 64.
BLOCK = 3168 + 1056 + 4224 + 4128 + 128
ACTOR = 5 * BLOCK + 3200 + 2048 + 64
# A scalar model also has a head of 32 and a bias.
CRITIC = ACTOR + 32 + 1


def job(**changes: Any) -> Job:
    settings: dict[str, Any] = {
        "stage": "ppo",
        "model": SOURCE,
        "critic": SOURCE,
        "reward": SOURCE,
        "prompt_length": 8,
        "response_length": 6,
        "minibatch_size": 4,
        "rollout_batch_size": 8,
        "rollout_micro_batch_size": 3,
    }
    return Job(**(settings | changes))


def kinds(plan: Plan, phase: str) -> dict[str, int]:
    return by_kind(plan.phases[phase].held)
