"""The time of an iteration: the floating point operations, or the memory that decoding reads if that takes longer."""

from dataclasses import dataclass

from lightning_rlhf.planner.flops import forward_flops
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.phases import Passes
from lightning_rlhf.planner.speed import Speed


@dataclass(frozen=True)
class Time:
    """The time of a phase."""

    seconds: float
    bound_by: str
    """`compute` or `memory`."""


def times(job: Job, passes: Passes, flops: dict[str, float], speed: Speed) -> dict[str, Time]:
    """The time of each phase on all devices together.

    Decoding reads all weights of the model and the key-value cache once for each token of a batch, and computes little
    with them. It is therefore bound by the bandwidth of the memory unless batches are large. Source: Pope et al.,
    "Efficiently Scaling Transformer Inference" (2022), section 2.1.

    Args:
        job: The job.
        passes: Its passes.
        flops: FLOPs of each phase, over all processes.
        speed: The speed of each device.
    """
    per_second = job.processes * speed.flops * speed.mfu
    found = {phase: Time(count / per_second, "compute") for phase, count in flops.items()}
    if job.record.samples:
        reading = decoded_bytes(job, passes) / (speed.bandwidth * speed.mbu)
        # All tokens of a prompt are read at once.
        actor = passes.sizes.passed["actor"]
        prefill = forward_flops(actor, job.rollout_batch_size * job.prompt_length, job.prompt_length // 2) / per_second
        if prefill + reading > found["rollout"].seconds:
            found["rollout"] = Time(prefill + reading, "memory")
    return found


def decoded_bytes(job: Job, passes: Passes) -> float:
    """Bytes that a device reads to decode the responses of its share of a rollout."""
    batches = -(-job.rollout_batch_size // (job.processes * job.sampled_rows))
    net = passes.sizes.passed["actor"]
    # Autocast casts the weights once for a batch. Weights in 4 or 8 bits are smaller than what they are cast to.
    weights = min(net.size, net.count * job.dtype.itemsize) if job.dtype else net.size
    # The cache grows from the length of the prompt to that of the whole row.
    length = job.prompt_length + job.response_length
    cache = passes.cache["decoding"] * (job.prompt_length + length) / (2 * length)
    return batches * job.response_length * (weights + cache)
