"""The memory that torch's FSDP2 and FSDP hold on a device."""

from collections import Counter

from lightning_rlhf.planner.adam import moments_size, step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.rules import Rules, generator, item_size, per_role
from lightning_rlhf.planner.trace import Segment
from lightning_rlhf.planner.weights import Sizes, Weights

SAMPLING = ("rollout", "scoring")
"""Phases in which the sampling model may be gathered."""


def fsdp2(job: Job, sizes: Sizes) -> Rules:
    """Rules of FSDP2. Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, _fsdp_collectives.py."""
    processes, weights = job.processes, sizes.held
    share = per_role(weights, "gradients", lambda net: net.trained_size / processes)

    def gathered(segment: Segment, phase: str) -> int:
        net = sizes.called(segment.role)
        if net is None or (phase in SAMPLING and sizes.samples(segment.role) and job.layout.gather_for_generation):
            return 0
        return gathered_by_block(job, net, segment)

    def extra(segment: Segment) -> int:
        # `foreach_reduce` copies the gradients of a block in fp32 into a buffer to send, and allocates its own share.
        return round(segment.gradients * (1 + 1 / processes)) if segment.part == "block" else 0

    def left(segment: Segment) -> int:
        return round(segment.gradients / processes) if segment.part == "block" else segment.gradients

    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.size / processes),
        optimizer=per_role(
            weights,
            "optimizer",
            lambda net: moments_size(job.optimizer_bits, net.trained_size, net.trained) / processes,
        ),
        gradients=share,
        backward=Counter() if job.accumulate == 1 else share,
        step=step_work(job, weights, processes),
        generation=generator(job, sizes),
        gathered=gathered,
        extra=extra,
        left=left,
    )


def gathered_by_block(job: Job, net: Weights, segment: Segment) -> int:
    """Bytes that a model divided by `fully_shard` gathers while it is called."""
    scale = item_size(job, net) * net.count / net.size
    # Weights outside the blocks stay until the model has finished. Those of a block are gathered into one buffer and
    # copied out of it. The buffer exists until the weights of the next block have arrived (`wait_for_unshard`).
    return round(scale * (net.outer + 2 * net.block * (segment.part == "block")))


def fsdp(job: Job, sizes: Sizes) -> Rules:
    """Rules of FSDP. Source: torch/distributed/fsdp/_flat_param.py, _runtime_utils.py."""
    found = fsdp2(job, sizes)
    outer = sum(net.outer for net in sizes.held.values())
    # The flat tensor of the root holds the weights of all models outside their blocks, whether trained or not. Its
    # gradient has the same size.
    found.generation = Counter({("", "gathered"): outer}) + Counter(
        {("actor", "gathered"): sizes.generator.block * sizes.generator.blocks}
        if job.layout.gather_for_generation
        else {}
    )

    def gathered(segment: Segment, phase: str) -> int:
        net = sizes.called(segment.role)
        root = 0 if phase in SAMPLING else outer
        if net is None:
            return root
        own = phase in SAMPLING and sizes.samples(segment.role) and job.layout.gather_for_generation
        block = 0 if own or segment.part != "block" else net.block
        # The backward pass gathers the next block in advance (BACKWARD_PRE).
        return block * (2 if segment.backward else 1) + root

    found.gathered = gathered
    if job.layout.parameters_on != "device":
        # With `CPUOffload`, weights, gradients and optimizer are on the host, which also computes the step.
        found.parameters, found.optimizer, found.gradients = Counter(), Counter(), Counter()
        found.backward, found.step = Counter(), Counter()
    found.backward = Counter(found.backward)
    found.backward["", "gradients"] += outer
    stays = job.layout.parameters_on == "device"
    found.left = lambda segment: round(segment.gradients / job.processes) if stays and segment.part == "block" else 0
    return found
