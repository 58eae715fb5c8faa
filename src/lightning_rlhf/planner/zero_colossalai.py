"""What ColossalAI's ZeRO and Gemini hold on a device."""

from collections import Counter

from lightning_rlhf.planner.adam import step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.nets import Weights
from lightning_rlhf.planner.rules import Rules, generator, item_size, on_device, per_role


def colossalai(job: Job, weights: dict[str, Weights]) -> Rules:
    """Of its three stages; the third is Gemini."""
    return _gemini(job, weights) if job.layout.stage == 3 else _colossalai12(job, weights)


def _colossalai12(job: Job, weights: dict[str, Weights]) -> Rules:
    """colossalai/zero/low_level/low_level_optim.py."""
    processes = job.processes
    items = {role: item_size(job, net) for role, net in weights.items()}
    item = max(items.values())
    bucket = round(job.layout.reduce_bucket * item)
    share = per_role(weights, "gradients", lambda net: net.trained * item / processes)
    whole = per_role(weights, "gradients", lambda net: net.trained * item)
    # Stage 1 keeps gradients whole until the step; both send them in buckets, flattened.
    backward = Counter(share if job.layout.stage == 2 else whole)
    backward["", "buckets"] += 2 * bucket
    step = Counter(share if job.layout.stage == 2 else whole)
    if job.layout.optimizer_on == "device":
        step += per_role(weights, "gradients", lambda net: 4 * net.trained / processes)
        step += step_work(job, weights, processes)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net)),
        # `_create_master_param_current_rank`: copies, even of fp32 weights.
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        backward=backward,
        step=step,
        whole_gradients=False,
        left=lambda segment: 0,
    )


def _gemini(job: Job, weights: dict[str, Weights]) -> Rules:
    """colossalai/zero/gemini: chunks, whose gradients take the place of their weights; frozen nets are whole."""
    processes, item = job.processes, 2
    resident = processes if job.layout.parameters_on == "device" else float("inf")
    # Two chunks at a time: the one that computes, and the one that comes.
    chunks = {
        role: round(2 * max(job.layout.chunk, net.widest) * item) if net.count > job.layout.chunk else net.count * item
        for role, net in weights.items()
    }
    return Rules(
        parameters=per_role(weights, "parameters", lambda n: n.count * item / (resident if n.trained else 1)),
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        step=step_work(job, weights, processes) if job.layout.optimizer_on == "device" else Counter(),
        generation=generator(job, weights, dict.fromkeys(weights, item)),
        whole_gradients=False,
        gathered=lambda segment, phase: chunks.get(segment.role, 0) if weights[segment.role].trained else 0,
        left=lambda segment: 0,
    )
