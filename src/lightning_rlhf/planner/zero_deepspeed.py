"""What DeepSpeed's ZeRO holds on a device."""

from collections import Counter

from lightning_rlhf.planner.adam import step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.rules import Rules, generator, item_size, on_device, per_role
from lightning_rlhf.planner.trace import Segment
from lightning_rlhf.planner.weights import Sizes


def deepspeed(job: Job, sizes: Sizes) -> Rules:
    """Of its three stages."""
    return _deepspeed3(job, sizes) if job.layout.stage == 3 else _deepspeed12(job, sizes)


def _deepspeed12(job: Job, sizes: Sizes) -> Rules:
    """deepspeed/runtime/zero/stage_1_and_2.py."""
    weights = sizes.held
    processes, stays = job.processes, job.layout.optimizer_on == "device"
    trained = sum(net.trained for net in weights.values())
    item = max(item_size(job, net) for net in weights.values())
    share = per_role(weights, "gradients", lambda net: net.trained * item / processes)
    # `setup_buckets`: one to fill, one that is being sent, whatever the size of the nets.
    buckets = 2 if job.layout.overlap else 1
    backward: Bytes = Counter({("", "buckets"): round(buckets * job.layout.reduce_bucket * item)})
    if stays:
        # `copy_grads_in_partition`.
        backward += share
    if job.accumulate > 1 and job.layout.stage == 1:
        backward += per_role(weights, "gradients", lambda net: net.trained * item)
    # `step`: the share once more as one fp32 tensor. On the host all of this happens there.
    step = Counter(share)
    step["", "gradients"] += round(4 * max((net.trained for net in weights.values()), default=0) / processes)
    step += step_work(job, weights, processes, flat=True)
    if not stays:
        step = Counter()
        # `temp_grad_buffer_for_gpu_offload`, `…_for_cpu_offload`.
        backward["", "buckets"] += round(max(net.largest for net in weights.values()) * item)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net)),
        # `single_partition_of_fp32_groups`: copies, even of fp32 weights.
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        backward=backward if trained else Counter(),
        step=step,
        whole_gradients=False,
        left=lambda segment: 0,
    )


_LIVE, _PREFETCHED = 1_000_000_000, 50_000_000
"""Weights: DeepSpeed's `stage3_max_live_parameters` and `…_max_reuse_distance`, and `stage3_prefetch_bucket_size`."""


def _deepspeed3(job: Job, sizes: Sizes) -> Rules:
    """deepspeed/runtime/zero/stage3.py, partition_parameters.py, partitioned_param_coordinator.py."""
    processes, weights = job.processes, sizes.held
    stays = job.layout.optimizer_on == "device"
    resident = processes if job.layout.parameters_on == "device" else float("inf")
    item = max(item_size(job, net) for net in weights.values())
    whole = sum(net.count for net in sizes.nets.values() if net.trained)
    live, ahead = (round(min(limit, whole) * item) for limit in (_LIVE, _PREFETCHED))
    always: Bytes = Counter({("", "buckets"): round(job.layout.reduce_bucket * item)})
    share = per_role(weights, "gradients", lambda net: net.trained * item / processes)

    def gathered(segment: Segment, phase: str) -> int:
        net = sizes.called(segment.role)
        if net is None:
            return 0
        if phase == "update" and net.trained:
            # What is used again within so many weights is kept, once the order of a step is on record. What is gathered
            # ahead lies in one buffer, is copied out of it (`AllGatherCoalescedHandle.wait`), and leaves it when all of
            # it has been asked for (`__inflight_param_registry`): when each net has been called once, head and all.
            called = segment.backward or (segment.role == "actor" and "critic" in sizes.played and not sizes.own_head)
            return live + (0 if called else ahead)
        # Each layer by itself: the order is not on record.
        return round(net.widest * item_size(job, net))

    # `_prepare_sub_group`: the share once more as one tensor of the optimizer's dtype, which stays.
    flat = per_role(weights, "gradients", lambda net: 4 * net.trained / processes)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net) / resident),
        # In fp32 the shares of the weights are the optimizer's (`_create_fp32_partitions`).
        optimizer=on_device(job, weights, 4 if job.dtype else 0),
        # `grad_partitions_flat_buffer`.
        gradients=share + flat if stays else Counter(),
        always=always,
        backward=share + flat if stays else Counter(),
        step=step_work(job, weights, processes, flat=True) if stays else Counter(),
        generation=generator(job, sizes),
        whole_gradients=False,
        gathered=gathered,
        left=lambda segment: 0,
    )
