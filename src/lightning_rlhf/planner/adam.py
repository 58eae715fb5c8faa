"""Memory of optimizers: the state that they keep for each weight, and the working memory of a step."""

from collections import Counter

from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.weights import Weights

_IN_ONE_PASS = {
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "lightning_rlhf.modules.adam.AdamTF",
    "lightning_rlhf.modules.low_bit_optimizers.adamw",
    "lightning_rlhf.strategies.colossalai.boost.hybrid_adam",
    "lightning_rlhf.strategies.deepspeed.ops.cpu_adamw",
}
"""Optimizers that update a weight in one pass: by their own kernels, or because `modules.adam.fuse` makes them.

An optimizer that is neither Adam or AdamW of PyTorch nor a subclass of them stays as it is. So does one whose `fused`
or `foreach` is set.
"""


def moments_size(bits: int, size: float, count: float) -> float:
    """Bytes of Adam's two moving averages (Kingma and Ba, 2015).

    Args:
        bits: 8 for averages in 8 bits; otherwise the averages have the dtype of the weights.
        size: Bytes of the weights.
        count: Number of weights. In 8 bits, each average takes one byte, and each block of 256 takes 4 more (Dettmers
            et al., "8-bit Optimizers via Block-wise Quantization", 2022; bitsandbytes uses blocks of 256).
    """
    return count * 2 * (1 + 4 / 256) if bits == 8 else 2 * size


def step_work(job: Job, weights: dict[str, Weights], processes: int, *, flat: bool = False) -> Bytes:
    """Bytes of temporary memory during a step.

    Args:
        job: The job.
        weights: Sizes of the weights by role.
        processes: Number of processes that share the weights.
        flat: Whether all weights of a parameter group are one tensor.
    """
    sizes = [net.trained_size for net in weights.values()]
    groups = max(sizes, default=0)
    is_left = job.fused is None and job.foreach is None
    # PyTorch's other optimizers need two temporary tensors for one weight at a time. On GPUs they need one tensor for
    # each weight of a group, all at once.
    if job.fused or (is_left and job.optimizer in _IN_ONE_PASS):
        work = 0.0
    elif job.foreach or (is_left and job.on_gpu):
        work = groups
    elif flat:
        work = 2 * groups
    else:
        work = 2 * max((net.largest * net.trained_size / max(net.trained, 1) for net in weights.values()), default=0)
    return Counter({("", "optimizer"): round(work / processes)})
