"""What each strategy holds on a device beside the passes: weights, gradients, the optimizer's state, buffers.

W processes share; N weights are trained. Shares: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training
Trillion Parameter Models" (2020), section 5. What the libraries hold beside is read off their sources, as named.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from lightning_rlhf.planner.adam import moments_size
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes, Kind
from lightning_rlhf.planner.trace import Segment
from lightning_rlhf.planner.weights import Sizes, Weights


@dataclass
class Rules:
    """Of one stage."""

    parameters: Bytes
    optimizer: Bytes
    gradients: Bytes
    """Those that are there all the time."""
    always: Bytes = field(default_factory=Counter)
    """Buffers that are there from the beginning."""
    forward: Bytes = field(default_factory=Counter)
    """Gradients of parts of the same minibatch, in a forward pass of an update."""
    backward: Bytes = field(default_factory=Counter)
    """Buffers, and gradients that are not the passes' own, in a backward pass."""
    step: Bytes = field(default_factory=Counter)
    """In the optimizer's step, beside all of the above but `backward`."""
    generation: Bytes = field(default_factory=Counter)
    """Of the net that samples, gathered for a rollout."""
    whole_gradients: bool = True
    """Whether gradients of a backward pass stay as the passes make them."""
    gathered: Callable[[Segment, str], int] = lambda segment, phase: 0
    """Bytes of weights that a segment of a phase gathers."""
    extra: Callable[[Segment], int] = lambda segment: 0
    """Bytes that a segment of a backward pass takes to hand on its gradients."""
    left: Callable[[Segment], int] = lambda segment: segment.gradients
    """Bytes of gradients that a segment leaves behind."""


def per_role(weights: dict[str, Weights], kind: Kind, size: Callable[[Weights], float]) -> Bytes:
    """Bytes of a kind, for each role."""
    return Counter({(role, kind): round(size(net)) for role, net in weights.items()})


def item_size(job: Job, net: Weights) -> float:
    """Bytes of a weight where the strategy casts all of them."""
    return job.dtype.itemsize if job.dtype else net.size / net.count


def on_device(job: Job, weights: dict[str, Weights], master: int) -> Bytes:
    """The share of the optimizer, if it is on the device; `master` bytes for a copy of each weight."""
    if job.layout.optimizer_on != "device":
        return Counter()
    per_weight = master + moments_size(job.optimizer_bits, 4, 1)
    return per_role(weights, "optimizer", lambda net: per_weight * net.trained / job.processes)


def generator(job: Job, sizes: Sizes) -> Bytes:
    """The net that samples, gathered once for a rollout, if it is."""
    if not job.layout.gather_for_generation:
        return Counter()
    net = sizes.generator
    return Counter({("actor", "gathered"): round(net.count * item_size(job, net))})
