"""Lets the jobs of a sweep share overrides of stages that only some of them run, or none."""

from collections.abc import Collection, Sequence
from importlib.resources import files

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from lightning_rlhf.assembly.quoting import parsed
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
    chosen = _chosen_stages(flags.overrides)
    if not flags.multirun or not all(
        (files("lightning_rlhf.conf") / "stage" / f"{name}.yaml").is_file() for name in chosen
    ):
        return list(arguments), ""
    blocks = {name: _blocks(name) for name in chosen}
    kept, ignored = [], dict[str, list[str]]()
    for argument in arguments:
        block = block_of(argument)
        idle = [name for name in chosen if block and block not in blocks[name]]
        if idle:
            ignored.setdefault(",".join(idle), []).append(argument.lstrip("+~").partition("=")[0])
        if len(idle) < len(chosen):
            kept.append(f"++{argument}" if idle and argument[0] not in "+~" else argument)
    note = "; ".join(f"stage={stages} ignores {', '.join(dict.fromkeys(keys))}" for stages, keys in ignored.items())
    return kept, note


def of_stages(overrides: Sequence[str], stages: Collection[str]) -> list[str]:
    """The overrides of a job without those of stages that the job does not run."""
    blocks = {stage_record(name).block for name in stages}
    return [text for text in overrides if block_of(text) in (None, *blocks)]


def own_overrides(job: Sequence[str]) -> list[str]:
    """The overrides of a job of a sweep without those of stages that it does not run.

    A job with a stage that this package does not have keeps all.
    """
    option = next((text.partition("=")[2].strip("'\"") for text in job if text.startswith("stage=")), "pipeline")
    file = files("lightning_rlhf.conf") / "stage" / f"{option}.yaml"
    return of_stages(job, OmegaConf.load(str(file)).stages) if file.is_file() else list(job)


def block_of(argument: str) -> str | None:
    """The block of a stage that an override changes; None if it changes no block."""
    first = argument.lstrip("+~").partition("=")[0].split(".")[0]
    return first if first in {record.block for record in STAGES.values()} else None


def _chosen_stages(overrides: Sequence[str]) -> list[str]:
    """The options of the group `stage` that a sweep runs through."""
    for text in overrides:
        read = parsed(text)
        if read is not None and read.get_key_element() == "stage":
            if read.is_discrete_sweep():
                return [value.strip("'\"") for value in read.sweep_string_iterator()]
            return [str(read.value())]
    return ["pipeline"]


def _blocks(option: str) -> set[str]:
    stages = OmegaConf.load(str(files("lightning_rlhf.conf") / "stage" / f"{option}.yaml")).stages
    return {stage_record(name).block for name in stages}
