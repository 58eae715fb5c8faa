"""Checks for settings of a stage that contradict each other, which both `train` and `plan` make."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lightning_rlhf.data.shares import Shares, check_sizes
from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import StageRecord

if TYPE_CHECKING:
    from lightning_rlhf.models.source import ModelSource
    from lightning_rlhf.planner.job import Job


def minibatch_settings(block: DictConfig) -> DictConfig:
    """The node that holds `minibatch_size`: `module` if the module makes its own minibatches, otherwise `data`."""
    return block.module if "minibatch_size" in block.module else block.data


def check_roles(roles: str, record: StageRecord, source: "ModelSource | DictConfig") -> None:
    """Checks that one model can take all roles of a stage, if the settings ask for it.

    Raises:
        UserError: If it cannot, or `roles` is unknown.
    """
    if roles not in ("separate", "shared"):
        raise UserError(f"roles={roles}: expected separate or shared")
    if roles == "separate":
        return
    if len(record.nets) > 1 and not record.has_four_roles:
        raise UserError(f"roles=shared: {record.title} does not have the four roles of PPO: set roles=separate")
    if source.adapter is None:
        raise UserError("roles=shared: each role is an adapter of one model: add adapter=lora")


def check_quantization(source: "ModelSource | DictConfig", block: DictConfig, roles: str, *, divides: bool) -> None:
    """Checks that the settings do not ask for anything that quantized weights cannot do.

    Args:
        source: Source of the policy, or its settings.
        block: Settings of the stage.
        roles: `separate`, or `shared` if one model takes all roles.
        divides: Whether the strategy divides weights among the processes.

    Raises:
        UserError: If quantized weights would be trained, divided, or copied to a reference.
    """
    given = f"model.quantization={source.quantization}"
    if source.quantization is None:
        return
    if source.adapter is None:
        raise UserError(f"{given}: quantized weights cannot be trained: add adapter=lora")
    if divides:
        raise UserError(f"{given}: quantized weights cannot be divided: set strategy=ddp or deepspeed_zero2")
    if roles == "separate" and block.module.get("refresh_reference_every"):
        raise UserError(f"{given}: a quantized reference cannot change: set ppo.module.refresh_reference_every=0")


def refused(job: "Job") -> list[str]:
    """What `train` would refuse about a job that can still be planned: uneven shares, and rows that are too long."""
    return list(_problems(job))


def _problems(job: "Job") -> Iterator[str]:
    # Imports torch, which the other checks do not need.
    from lightning_rlhf.planner.nets import num_positions

    for check in (_shares, _rollouts):
        try:
            check(job)
        except UserError as error:
            yield str(error)
    length, positions = job.prompt_length + job.response_length, num_positions(job.model)
    if positions is not None and length > positions:
        yield f"the longest allowed rows have {length} tokens, but the model reads at most {positions}"


def _shares(job: "Job") -> None:
    Shares(job.minibatch_size, job.processes, job.accumulate, max_tokens=job.max_tokens)


def _rollouts(job: "Job") -> None:
    if job.record.samples:
        check_sizes(job.rollout_batch_size, job.minibatch_size, job.processes)
