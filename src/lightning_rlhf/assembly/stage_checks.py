"""Settings of a stage that cannot be together: what `train` refuses, and `plan` too."""

from collections.abc import Iterator

from omegaconf import DictConfig

from lightning_rlhf.data.shares import Shares
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.planner.job import Job
from lightning_rlhf.planner.nets import num_positions
from lightning_rlhf.rollout.dataset import check_sizes
from lightning_rlhf.stages import StageRecord


def minibatch_settings(block: DictConfig) -> DictConfig:
    """The node of a stage's settings that says `minibatch_size`: a module that samples makes its own minibatches."""
    return block.module if "minibatch_size" in block.module else block.data


def check_roles(roles: str, record: StageRecord, source: ModelSource) -> None:
    """Checks whether one net can play all roles, if it is to.

    Raises:
        UserError: If it cannot.
    """
    if roles not in ("separate", "shared"):
        raise UserError(f"roles={roles}: expected separate or shared")
    if roles == "separate":
        return
    if len(record.nets) > 1 and not record.has_four_roles:
        raise UserError(f"roles=shared: {record.title} has no four roles: take roles=separate")
    if source.adapter is None:
        raise UserError("roles=shared: each role is an adapter of one net: add adapter=lora")


def check_quantization(source: ModelSource, block: DictConfig, roles: str, *, divides: bool) -> None:
    """Checks that quantized weights need not do what they cannot.

    Args:
        source: The net.
        block: Settings of the stage.
        roles: Whether one net plays all.
        divides: Whether the strategy divides weights among the processes.

    Raises:
        UserError: If they do.
    """
    given = f"model.quantization={source.quantization}"
    if source.quantization is None:
        return
    if source.adapter is None:
        raise UserError(f"{given}: quantized weights cannot be trained: add adapter=lora")
    if divides:
        raise UserError(f"{given}: quantized weights cannot be divided: take strategy=ddp or deepspeed_zero2")
    if roles == "separate" and block.module.get("refresh_reference_every"):
        raise UserError(f"{given}: a quantized reference cannot change: set ppo.module.refresh_reference_every=0")


def refused(job: Job) -> list[str]:
    """What `train` refuses of a stage that can be planned all the same: uneven shares, and rows that are too long."""
    return list(_problems(job))


def _problems(job: Job) -> Iterator[str]:
    for check in (_shares, _rollouts):
        try:
            check(job)
        except UserError as error:
            yield str(error)
    length, positions = job.prompt_length + job.response_length, num_positions(job.model)
    if positions is not None and length > positions:
        yield f"rows of {length} tokens, the longest that are allowed: the model reads {positions}"


def _shares(job: Job) -> None:
    Shares(job.minibatch_size, job.processes, job.accumulate)


def _rollouts(job: Job) -> None:
    if job.record.samples:
        check_sizes(job.rollout_batch_size, job.minibatch_size, job.processes)
