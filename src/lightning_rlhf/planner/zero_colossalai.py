"""The memory that ColossalAI's ZeRO and Gemini hold on a device."""

from collections import Counter

from lightning_rlhf.planner.adam import step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.rules import Rules, generator, item_size, on_device, per_role
from lightning_rlhf.planner.sharded import gathered_by_block
from lightning_rlhf.planner.trace import Segment
from lightning_rlhf.planner.weights import Sizes, Weights


def colossalai(job: Job, sizes: Sizes) -> Rules:
    """Rules of ColossalAI. Its stage 3 is Gemini."""
    return _gemini(job, sizes) if job.layout.stage == 3 else _colossalai12(job, sizes)


def _colossalai12(job: Job, sizes: Sizes) -> Rules:
    """Rules of stages 1 and 2. Source: colossalai/zero/low_level/low_level_optim.py."""
    processes, weights = job.processes, sizes.held
    item = max(item_size(job, net) for net in weights.values())
    bucket = round(job.layout.reduce_bucket * item)
    share = per_role(weights, "gradients", lambda net: net.trained * item / processes)
    whole = per_role(weights, "gradients", lambda net: net.trained * item)
    # Stage 1 keeps whole gradients until the step. Both stages send them in flattened buckets.
    backward = Counter(share if job.layout.stage == 2 else whole)
    backward["", "buckets"] += 2 * bucket
    step = Counter(share if job.layout.stage == 2 else whole)
    if job.layout.optimizer_on == "device":
        step += per_role(weights, "gradients", lambda net: 4 * net.trained / processes)
        step += step_work(job, weights, processes)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net)),
        # `_create_master_param_current_rank` copies weights even if they are fp32.
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        backward=backward,
        step=step,
        whole_gradients=False,
        left=lambda segment: 0,
    )


def _gemini(job: Job, sizes: Sizes) -> Rules:
    """Rules of Gemini, whose chunks hold trained weights, and later their gradients in the same place.

    Source: colossalai/zero/gemini. Frozen weights of a trained model stay whole. Frozen models are divided by
    `fully_shard`, see `strategies.colossalai.frozen`.
    """
    processes, item, weights = job.processes, 2, sizes.held
    resident = processes if job.layout.parameters_on == "device" else float("inf")

    def parameters(role: str, net: Weights) -> float:
        whole = net.count - net.trained if sizes.nets[sizes.owner(role)].trained else 0
        return item * (whole + (net.count - whole) / resident)

    def gathered(segment: Segment, phase: str) -> int:
        net = sizes.called(segment.role)
        if net is None:
            return 0
        if not net.trained:
            return gathered_by_block(job, net, segment)
        # There are two chunks at a time: the one in use, and the one that is being gathered.
        return round(item * min(net.trained, 2 * max(job.layout.chunk, net.largest)))

    return Rules(
        parameters=Counter({(role, "parameters"): round(parameters(role, net)) for role, net in weights.items()}),
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        step=step_work(job, weights, processes) if job.layout.optimizer_on == "device" else Counter(),
        generation=generator(job, sizes),
        whole_gradients=False,
        gathered=gathered,
        left=lambda segment: 0,
    )
