"""Lets the jobs of a sweep share overrides of stages that only some of them run, or none."""

from collections.abc import Collection, Sequence

from hydra._internal.utils import get_args_parser

from lightning_rlhf.assembly.job_stages import composer_of
from lightning_rlhf.stages import STAGES, stage_record


def without_idle(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Leaves out the overrides of stages that no job of a sweep runs.

    Overrides of stages that only some jobs run become additions (`++`), because the other jobs have no such settings.

    Args:
        arguments: The arguments of `train`: flags of Hydra, and overrides.

    Returns:
        The arguments that remain, and a note if all or some jobs ignore overrides; otherwise the note is empty.
        Arguments that start no sweep, or a sweep over a stage that this package does not have, remain as they are.
    """
    flags = get_args_parser().parse_known_args(list(arguments))[0]
    if not flags.multirun or not any(map(block_of, flags.overrides)):
        return list(arguments), ""
    jobs = composer_of(arguments).stages_of_sweep(flags.overrides)
    if jobs is None:
        return list(arguments), ""
    kept, ignored = [], dict[str, list[str]]()
    for argument in arguments:
        block = block_of(argument)
        idle = [job for job in jobs if block and block not in job.blocks]
        if idle:
            name = f"{idle[0].key}={','.join(job.name for job in idle)}"
            ignored.setdefault(name, []).append(argument.lstrip("+~").partition("=")[0])
        if len(idle) < len(jobs):
            kept.append(f"++{argument}" if idle and argument[0] not in "+~" else argument)
    note = "; ".join(f"{stages} ignores {', '.join(dict.fromkeys(keys))}" for stages, keys in ignored.items())
    return kept, note


def of_stages(overrides: Sequence[str], stages: Collection[str]) -> list[str]:
    """The overrides of a job without those of stages that the job does not run."""
    return of_blocks(overrides, {stage_record(name).block for name in stages})


def of_blocks(overrides: Sequence[str], blocks: Collection[str]) -> list[str]:
    """The overrides of a job without those of blocks that its stages do not read."""
    return [text for text in overrides if block_of(text) in (None, *blocks)]


def block_of(argument: str) -> str | None:
    """The block of a stage that an override changes; None if it changes no block, or is a flag or the value of one."""
    if "=" not in argument and not argument.startswith("~"):
        return None
    first = argument.lstrip("+~").partition("=")[0].split(".")[0]
    return first if first in {record.block for record in STAGES.values()} else None
