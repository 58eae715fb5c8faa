"""Chooses the rules of a strategy, and defines those of strategies whose processes hold whole models."""

from collections import Counter
from dataclasses import replace

from lightning_rlhf.planner.adam import moments_size, step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.rules import Rules, per_role
from lightning_rlhf.planner.sharded import fsdp, fsdp2
from lightning_rlhf.planner.weights import Sizes
from lightning_rlhf.planner.zero_colossalai import colossalai
from lightning_rlhf.planner.zero_deepspeed import deepspeed


def single(job: Job, sizes: Sizes) -> Rules:
    """Rules for processes that hold whole models."""
    weights = sizes.held
    gradients = per_role(weights, "gradients", lambda net: net.trained_size)
    # Gradients of further micro-batches are added to those that exist. The optimizer step frees them.
    parts = Counter() if job.accumulate == 1 else gradients
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.size),
        optimizer=per_role(
            weights, "optimizer", lambda net: moments_size(job.optimizer_bits, net.trained_size, net.trained)
        ),
        gradients=Counter(),
        forward=parts,
        backward=parts,
        step=gradients + step_work(job, weights, 1),
        whole_gradients=job.accumulate == 1,
        left=lambda segment: segment.gradients if job.accumulate == 1 else 0,
    )


def ddp(job: Job, sizes: Sizes) -> Rules:
    """Rules for processes that hold whole models and send gradients in buckets."""
    found = single(job, sizes)
    buckets = per_role(sizes.held, "buckets", lambda net: net.trained_size)
    if not job.layout.gradients_in_buckets:
        found.always = buckets
        return found
    # Gradients are views of the buckets, which exist from the beginning. Autograd frees its own gradient of a weight
    # after it has been copied into the bucket.
    return replace(
        found,
        always=buckets,
        forward=Counter(),
        backward=Counter(),
        step=step_work(job, sizes.held, 1),
        whole_gradients=False,
        left=lambda segment: 0,
    )


_ENGINES = {
    "single": single,
    "ddp": ddp,
    "deepspeed": deepspeed,
    "fsdp": fsdp,
    "fsdp2": fsdp2,
    "colossalai": colossalai,
}


def rules(job: Job, sizes: Sizes) -> Rules:
    """The rules of the strategy of a job."""
    return _ENGINES[job.layout.engine](job, sizes)
