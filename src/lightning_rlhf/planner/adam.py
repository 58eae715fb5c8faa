"""What optimizers keep of each weight, and what their step takes."""

from collections import Counter

from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.weights import Weights


def moments_size(bits: int, size: float, count: float) -> float:
    """Bytes of Adam's two averages (Kingma and Ba, 2015).

    Args:
        bits: Of a number of the averages, if 8.
        size: Bytes of the weights: the averages have their dtype.
        count: How many there are. In 8 bits a byte for each average, and 4 for each 256 (Dettmers et al., "8-bit
            Optimizers via Block-wise Quantization", 2022; bitsandbytes takes blocks of 256).
    """
    return count * 2 * (1 + 4 / 256) if bits == 8 else 2 * size


def step_work(job: Job, weights: dict[str, Weights], processes: int, *, flat: bool = False) -> Bytes:
    """Bytes that a step takes for a moment.

    Args:
        job: The stage.
        weights: By role.
        processes: Which share the weights.
        flat: Whether all weights of a group are one tensor.
    """
    sizes = [net.trained_size for net in weights.values()]
    groups = max(sizes, default=0)
    # torch/optim/adam.py: `_single_tensor_adam` takes two tensors for a weight, `_multi_tensor_adam` (on GPUs) one for
    # all weights of a group. Kernels of their own take none.
    if any(name in job.optimizer for name in ("low_bit_optimizers", "cpu_adamw", "hybrid_adam")):
        work = 0.0
    elif job.on_gpu or flat:
        work = groups * (1 if job.on_gpu else 2)
    else:
        work = 2 * max((net.largest * net.trained_size / max(net.trained, 1) for net in weights.values()), default=0)
    return Counter({("", "optimizer"): round(work / processes)})
