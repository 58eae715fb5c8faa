"""Floating point operations of an iteration.

Sources: Kaplan et al., "Scaling Laws for Neural Language Models" (2020), section 2.1: 2 operations for each weight and
token in the forward pass, and twice as many in the backward pass; Chowdhery et al., "PaLM" (2022), appendix B, for
attention.
"""

from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.weights import Sizes, Weights


def forward_flops(net: Weights, tokens: int, length: int) -> float:
    """FLOPs of a forward pass.

    Args:
        net: Sizes of the model. Embeddings that are looked up do not count, but a head does.
        tokens: Number of tokens over all rows.
        length: Length of a row, over which attention extends.
    """
    return tokens * (2 * net.multiplied + 4 * net.blocks * net.width * length)


def backward_flops(net: Weights, tokens: int, length: int, *, checkpointing: bool) -> float:
    """FLOPs of a backward pass: the gradients of activations and of trained weights.

    With checkpointing, the forward pass is computed once more.
    """
    forward = forward_flops(net, tokens, length)
    trained = net.trained / max(net.count, 1)
    return forward * (1 + trained + checkpointing)


def iteration_flops(job: Job, sizes: Sizes) -> dict[str, float]:
    """FLOPs of an iteration, or of an optimizer step of a stage that does not sample, by phase, over all processes."""
    length, weights = job.prompt_length + job.response_length, sizes.passed
    if not job.record.samples:
        rows = job.minibatch_size * job.record.rows
        return {"update": sum(_update(job, net, rows * length, length) for net in weights.values())}
    tokens = job.rollout_batch_size * length
    actor = weights["actor"]
    scoring = sum(forward_flops(net, tokens, length) for net in weights.values())
    update = sum(_update(job, net, tokens, length) for net in weights.values() if net.trained)
    return {
        # With a cache, each token passes through the model once.
        "rollout": forward_flops(actor, tokens, length // 2),
        "scoring": scoring + (forward_flops(actor, tokens, length) if job.exact_kl else 0),
        "update": job.ppo_epochs * update,
    }


def _update(job: Job, net: Weights, tokens: int, length: int) -> float:
    forward = forward_flops(net, tokens, length)
    if not net.trained:
        return forward
    return forward + backward_flops(net, tokens, length, checkpointing=job.model.gradient_checkpointing)
