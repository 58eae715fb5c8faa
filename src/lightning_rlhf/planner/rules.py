"""The memory that a strategy holds on a device in addition to the passes: weights, gradients, optimizer and buffers.

Source of the shares: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020),
section 5. The buffers of the libraries follow from their source code; each file names it.
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
    """The rules of a strategy for one stage."""

    parameters: Bytes
    """Weights."""
    optimizer: Bytes
    """State of the optimizer."""
    gradients: Bytes
    """Gradients that exist all the time."""
    always: Bytes = field(default_factory=Counter)
    """Buffers that exist from the beginning."""
    forward: Bytes = field(default_factory=Counter)
    """Gradients of earlier micro-batches of the same minibatch, in a forward pass of an update."""
    backward: Bytes = field(default_factory=Counter)
    """Buffers, and gradients that the backward pass itself does not make, in a backward pass."""
    step: Bytes = field(default_factory=Counter)
    """Memory of the optimizer step, in addition to all of the above except `backward`."""
    generation: Bytes = field(default_factory=Counter)
    """Weights of the sampling model that are gathered for a rollout."""
    whole_gradients: bool = True
    """Whether the gradients of a backward pass stay as autograd makes them."""
    gathered: Callable[[Segment, str], int] = lambda segment, phase: 0
    """Bytes of weights that a segment of a phase gathers."""
    extra: Callable[[Segment], int] = lambda segment: 0
    """Bytes that a segment of a backward pass needs to reduce its gradients."""
    left: Callable[[Segment], int] = lambda segment: segment.gradients
    """Bytes of gradients that remain after a segment."""


def per_role(weights: dict[str, Weights], kind: Kind, size: Callable[[Weights], float]) -> Bytes:
    """Bytes of a kind for each role."""
    return Counter({(role, kind): round(size(net)) for role, net in weights.items()})


def item_size(job: Job, net: Weights) -> float:
    """Bytes of a weight, if the strategy casts all weights."""
    return job.dtype.itemsize if job.dtype else net.size / net.count


def on_device(job: Job, weights: dict[str, Weights], master: int) -> Bytes:
    """A process's share of the optimizer state, if that is on the device.

    `master` is the number of bytes for a copy of each weight.
    """
    if job.layout.optimizer_on != "device":
        return Counter()
    per_weight = master + moments_size(job.optimizer_bits, 4, 1)
    return per_role(weights, "optimizer", lambda net: per_weight * net.trained / job.processes)


def generator(job: Job, sizes: Sizes) -> Bytes:
    """The weights of the sampling model, if the strategy gathers them once for a rollout."""
    if not job.layout.gather_for_generation:
        return Counter()
    net = sizes.generator
    return Counter({("actor", "gathered"): round(net.count * item_size(job, net))})
