"""Host memory of the processes of a machine: models while they are loaded, offloaded state, and exports."""

from collections import Counter

from lightning_rlhf.planner.adam import moments_size
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.rules import item_size
from lightning_rlhf.planner.weights import POLICY, Sizes, Weights


def host_bytes(job: Job, sizes: Sizes) -> dict[str, Bytes]:
    """Bytes that all processes of one machine hold in each phase, without those of Python and libraries.

    The result is empty if the devices are CPUs, whose memory is the device memory.
    """
    if not job.on_gpu:
        return {}
    each = job.processes_per_node
    # Models are built on the CPU one after the other, and moved when all of them exist. Under ZeRO 3, each process
    # keeps its share of the models that are loaded, in the dtype in which they compute.
    spread = job.layout.engine == "deepspeed" and job.layout.stage == 3

    def size(net: Weights) -> int:
        return round(net.count * item_size(job, net)) if spread else net.size

    load: Bytes = Counter(
        {
            (role, "parameters"): each * size(part) // (job.processes if spread else 1)
            for role, part in sizes.held.items()
        }
    )
    if spread:
        load["", "gathered"] = max((size(net) for net in sizes.nets.values()), default=0)
    held = _offloaded(job, sizes.held)
    # The first process writes the trained model, and reads it again to compare.
    export = Counter(held)
    export["", "parameters"] += (2 if job.layout.stage else 1) * sizes.generator.size
    found = {"load": load, "training": held, "export": export}
    if sizes.policy is not None:
        # Each process builds the policy on the CPU before it is moved.
        found["normalize"] = held + Counter({(POLICY, "parameters"): each * sizes.policy.size})
    return found


def _offloaded(job: Job, weights: dict[str, Weights]) -> Bytes:
    part = job.processes_per_node / job.processes
    held: Bytes = Counter()
    # FSDP has no fp32 copies. It offloads the weights themselves, in their dtype.
    copies = job.layout.engine != "fsdp"
    for role, net in weights.items():
        item = job.dtype.itemsize if job.dtype and copies else net.size / net.count
        trained = 4 * net.trained if copies else net.trained_size
        averages = moments_size(job.optimizer_bits, trained, net.trained)
        if job.layout.optimizer_on == "cpu":
            held[role, "optimizer"] += round(part * (averages + (trained if copies else 0)))
            held[role, "gradients"] += round(part * trained)
        if job.layout.parameters_on == "cpu":
            held[role, "parameters"] += round(part * net.count * item)
    return held
