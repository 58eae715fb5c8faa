"""Floating point operations of an iteration whose rows have their own lengths, counted in two ways.

`honest` counts what has to be computed: each real token passes through a model once, in a rollout because there is a
key-value cache; a token attends to those before it, which are half of the row on average; and the head of a language
model is needed at response tokens alone. Padding does not count. A response that the actor scores after the sampler
counts twice, because it passes through the actor twice. See `planner.flops` for the sources.

`of_predecessors` is the formula of ColossalAI's benchmarks, with which their figures can be compared. Its rollout has
no cache: each new token sends the whole row before it through the model. With 400 prompt tokens and 112 response
tokens, it counts about a hundred times as many operations for a rollout.
Source: ColossalAI, applications/ChatGPT, `chatgpt/trainer/callbacks/performance_evaluator.py` (2023).

Shapes: N rows over all processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_rlhf.planner.flops import backward_flops, forward_flops
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.nets import built
from lightning_rlhf.planner.weights import BACKBONE, Weights

PHASES = ("rollout", "score", "update")
_POLICIES = ("actor", "reference")
"""Roles whose language-model head is called."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The models of a run as far as FLOPs depend on them."""

    nets: dict[str, Weights]
    """By role: what a token passes through, without the head of a language model."""
    whole: dict[str, Weights]
    """By role: the whole model, with its embeddings and its head."""
    head: int
    """Number of weights of the head of the language model."""
    learners: tuple[str, ...]
    """Roles that an update trains."""
    ppo_epochs: int
    checkpointing: bool
    """Whether the update computes the activations of blocks once more."""
    exact_kl: bool
    """Whether scoring computes the KL over the whole vocabulary, in another pass of actor and reference."""


def counted(job: Job) -> Counted:
    """Builds the models of a job without memory for their weights, and counts them.

    Args:
        job: The job of PPO.
    """
    with built(job) as nets:
        whole, shared = nets.sizes.passed, BACKBONE in nets.members
        policy = nets.module.get_submodule(BACKBONE if shared else "actor")
        causal = policy if hasattr(policy, "get_output_embeddings") else nets.module.exported()  # type: ignore[operator]
        head = causal.get_output_embeddings().weight.numel()  # type: ignore[operator]
        # A role that is an adapter of the backbone is counted with the backbone's head, whether it calls it or not.
        with_head = {*_POLICIES, *nets.sizes.played}
        bodies = {
            role: replace(net, multiplied=net.multiplied - head * (role in with_head)) for role, net in whole.items()
        }
    learners = tuple(role for role in ("actor", "critic") if role in whole)
    return Counted(
        nets=bodies,
        whole=whole,
        head=head,
        learners=learners,
        ppo_epochs=job.ppo_epochs,
        checkpointing=job.model.gradient_checkpointing,
        exact_kl=job.exact_kl,
    )


def honest(run: Counted, prompts: list[int], responses: list[int], rescored: Sequence[bool]) -> dict[str, float]:
    """Counts the FLOPs that an iteration needs, by phase, over all processes.

    Args:
        run: The models.
        prompts: N numbers of prompt tokens.
        responses: N numbers of response tokens.
        rescored: N times whether the actor scored the response, because the sampler's log-probs could not stand for
            its own.
    """
    rows = list(zip(prompts, responses, strict=True))

    def forward(role: str, rows: Sequence[tuple[int, int]] = rows) -> float:
        net = run.nets[role]
        body = sum(forward_flops(net, prompt + more, (prompt + more) // 2) for prompt, more in rows)
        return body + 2 * run.head * sum(more for _, more in rows) * (role in _POLICIES)

    def step(role: str) -> float:
        net = run.nets[role]
        backward = sum(
            backward_flops(net, prompt + more, (prompt + more) // 2, checkpointing=run.checkpointing)
            for prompt, more in rows
        )
        # The head gives gradients to what is below it, and to itself if it is trained.
        trained = net.trained / max(net.count, 1)
        head = 2 * run.head * sum(responses) * (1 + trained) * (role in _POLICIES)
        return forward(role) + backward + head

    return {
        "rollout": forward("actor"),
        "score": sum(forward(role) for role in run.nets if role != "actor")
        + forward("actor", [row for row, again in zip(rows, rescored, strict=True) if again])
        + sum(forward(role) for role in _POLICIES) * run.exact_kl,
        "update": run.ppo_epochs * sum(step(role) for role in run.learners),
    }


def of_predecessors(run: Counted, prompts: list[int], responses: list[int]) -> dict[str, float]:
    """Counts the FLOPs of an iteration by the formula of the predecessors, by phase, over all processes.

    All rows count with their padding: S tokens, the longest prompt and the longest response together. With I prompt
    tokens, A response tokens and M weights of a model, embeddings included, a row counts 2·M·(I + S - 1)·A/2 in the
    rollout, 2·M·S in each scorer, and 2·M·S·3 in each pass of an update, or 4 with checkpointing.

    Args:
        run: The models.
        prompts: N numbers of prompt tokens.
        responses: N numbers of response tokens.
    """
    rows, prompt, response = len(prompts), max(prompts), max(responses)
    length = prompt + response
    sizes = {role: net.count for role, net in run.whole.items()}
    passes = 3 + run.checkpointing
    return {
        "rollout": 2 * sizes["actor"] * rows * (prompt + length - 1) * response / 2,
        "score": sum(2 * size * rows * length for size in sizes.values()),
        "update": run.ppo_epochs * sum(2 * sizes[role] * rows * length * passes for role in run.learners),
    }
