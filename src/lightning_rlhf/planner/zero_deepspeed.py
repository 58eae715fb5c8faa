"""The memory that DeepSpeed's ZeRO holds on a device."""

from collections import Counter

from lightning_rlhf.planner.adam import step_work
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.memory import Bytes
from lightning_rlhf.planner.rules import Rules, generator, item_size, on_device, per_role
from lightning_rlhf.planner.trace import Segment
from lightning_rlhf.planner.weights import Sizes


def deepspeed(job: Job, sizes: Sizes) -> Rules:
    """Rules of the three stages of ZeRO."""
    return _deepspeed3(job, sizes) if job.layout.stage == 3 else _deepspeed12(job, sizes)


def _deepspeed12(job: Job, sizes: Sizes) -> Rules:
    """Rules of stages 1 and 2. Source: deepspeed/runtime/zero/stage_1_and_2.py."""
    weights = sizes.held
    processes, stays = job.processes, job.layout.optimizer_on == "device"
    trained = sum(net.trained for net in weights.values())
    item = max(item_size(job, net) for net in weights.values())
    share = per_role(weights, "gradients", lambda net: net.trained * item / processes)
    # `setup_buckets` allocates a bucket to fill and one that is being sent, whatever the size of the models.
    buckets = 2 if job.layout.overlap else 1
    backward: Bytes = Counter({("", "buckets"): round(buckets * job.layout.reduce_bucket * item)})
    if stays:
        # `copy_grads_in_partition` copies the gradients.
        backward += share
    if job.accumulate > 1 and job.layout.stage == 1:
        backward += per_role(weights, "gradients", lambda net: net.trained * item)
    # `step` copies the share into one fp32 tensor. With an optimizer on the host, all of this happens there.
    step = Counter(share)
    step["", "gradients"] += round(4 * max((net.trained for net in weights.values()), default=0) / processes)
    step += step_work(job, weights, processes, flat=True)
    if not stays:
        step = Counter()
        # The buffers `temp_grad_buffer_for_gpu_offload` and `…_for_cpu_offload`.
        backward["", "buckets"] += round(max(net.largest for net in weights.values()) * item)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net)),
        # `single_partition_of_fp32_groups` copies weights even if they are fp32.
        optimizer=on_device(job, weights, 4),
        gradients=Counter(),
        backward=backward if trained else Counter(),
        step=step,
        whole_gradients=False,
        left=lambda segment: 0,
    )


_LIVE, _PREFETCHED = 1_000_000_000, 50_000_000
"""Defaults of DeepSpeed, in weights: `stage3_max_live_parameters`, which is also that of `…_max_reuse_distance`, and
`stage3_prefetch_bucket_size`."""


def _deepspeed3(job: Job, sizes: Sizes) -> Rules:
    """Rules of stage 3.

    Source: deepspeed/runtime/zero/stage3.py, partition_parameters.py, partitioned_param_coordinator.py.
    """
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
            # Once DeepSpeed has recorded the order of a step, it keeps weights that are used again within the reuse
            # distance. Weights that it gathers in advance lie in one buffer and are copied out of it
            # (`AllGatherCoalescedHandle.wait`). The buffer is freed when all of its weights have been requested
            # (`__inflight_param_registry`), which is when each model has been called once, including its head.
            called = segment.backward or (segment.role == "actor" and "critic" in sizes.played and not sizes.own_head)
            return live + (0 if called else ahead)
        # DeepSpeed has not recorded an order for this phase, so it gathers each layer separately.
        return round(net.widest * item_size(job, net))

    # `_prepare_sub_group` copies the share into one tensor of the optimizer's dtype, which stays.
    flat = per_role(weights, "gradients", lambda net: 4 * net.trained / processes)
    return Rules(
        parameters=per_role(weights, "parameters", lambda net: net.count * item_size(job, net) / resident),
        # In fp32, the optimizer works on the shares of the weights themselves (`_create_fp32_partitions`).
        optimizer=on_device(job, weights, 4 if job.dtype else 0),
        # The buffer `grad_partitions_flat_buffer`.
        gradients=share + flat if stays else Counter(),
        always=always,
        backward=share + flat if stays else Counter(),
        step=step_work(job, weights, processes, flat=True) if stays else Counter(),
        generation=generator(job, sizes),
        whole_gradients=False,
        gathered=gathered,
        left=lambda segment: 0,
    )
