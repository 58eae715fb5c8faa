"""Each job has the overrides of its own stages only; jobs that are equal after that run once."""

import sys
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.job_stages import Composer, composer_of
from lightning_rlhf.assembly.run_files import overrides_of
from lightning_rlhf.assembly.sweep_overrides import block_of, of_blocks
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES


class SweepRefused(UserError):
    """A sweep that cannot begin. It leaves its folder as it was."""


def run_distinct_jobs(planned: list[list[str]], folder: Path) -> None:
    """Makes Hydra's own sweeper leave out jobs that differ only in settings of stages that they do not run.

    `stage=sft,ppo ppo.module.lr=1,2` has three jobs: SFT has no `ppo.module.lr`, so it runs once. The method is
    replaced, because Hydra accepts a sweeper of another class only from the package `hydra_plugins`, which every
    program of the environment that uses Hydra would load, even if it has nothing to do with this package.

    Args:
        planned: Receives the overrides of each job.
        folder: Folder of the sweep. If it has jobs already, they must be those that are planned.
    """
    # When Hydra starts, it loads its plugins again, and this class is another one.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    all_jobs = BasicSweeper.split_arguments

    @wraps(all_jobs)
    def split(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        jobs = distinct([job for batch in all_jobs(overrides, None) for job in batch], composer_of(sys.argv[1:]))
        check_jobs(folder, jobs)
        planned[:] = jobs
        return list(BasicSweeper.split_overrides_to_chunks(planned, max_batch_size))

    BasicSweeper.split_arguments = staticmethod(split)  # type: ignore[method-assign]


def choose_jobs(node: DictConfig) -> None:
    """Makes Hydra's own sweeper run the jobs that a search chooses one after the other.

    The settings are checked when the sweep begins, because Hydra makes mere warnings of the errors of its callbacks.

    Args:
        node: The settings of the search.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    def sweep(self: BasicSweeper, arguments: list[str]) -> list[Any]:
        from lightning_rlhf.assembly.search import Search, run_search

        settings = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
        check_targets({"search": settings})
        del settings["_target_"]
        return run_search(Search(**settings), self, arguments)

    BasicSweeper.sweep = sweep  # type: ignore[method-assign]


def check_search(node: DictConfig, *, of_sweep: bool) -> None:
    """Checks that only a sweep has a search.

    Args:
        node: The settings of the search; empty if there is none.
        of_sweep: Whether the run is a job of a sweep.

    Raises:
        UserError: If a single run has a search.
    """
    if node and not of_sweep:
        raise UserError("search=optuna chooses the runs of a sweep, and this is a single run: add -m, or leave it out")


def check_jobs(folder: Path, planned: Sequence[Sequence[str]], first: int = 0) -> None:
    """Checks that jobs which a folder has already are those of the sweep that is started there again.

    Args:
        folder: Folder of the sweep.
        planned: The overrides of each job.
        first: Number of the first of these jobs.

    Raises:
        SweepRefused: If a job in the folder has other overrides.
    """
    for number, job in enumerate(planned, first):
        known = overrides_of(folder / str(number))
        if known and known != list(job):
            raise SweepRefused(
                f"hydra.sweep.dir={folder}: run {number} there has {' '.join(sorted(set(known) - set(job)))}, and now "
                f"would have {' '.join(sorted(set(job) - set(known)))}: give the same settings to go on with the "
                "sweep, or another folder"
            )


def distinct(jobs: Sequence[Sequence[str]], composer: Composer) -> list[list[str]]:
    """The jobs with the overrides of their own stages.

    Those that differ only in other overrides run once, which a note says. A job whose stages are not known keeps all,
    and so does every job keep overrides of stages that no job runs, which Hydra refuses.

    Args:
        jobs: The overrides of each job.
        composer: Composes the configurations of jobs.
    """
    found: list[list[str]] = []
    # Composing takes time, which most sweeps need not spend.
    stages = [composer.stages(job) if any(map(block_of, job)) else None for job in jobs]
    used = frozenset[str]().union(*(known.blocks for known in stages if known is not None))
    unused = {record.block for record in STAGES.values()} - used
    for job, known in zip(jobs, stages, strict=True):
        own = list(job) if known is None else of_blocks(job, known.blocks | unused)
        if own == list(job) or own not in found:
            found.append(own)
    if len(found) < len(jobs):
        print(
            f"note: the sweep has {len(found)} runs and not {len(jobs)}, because runs that differ only in settings of "
            "stages that they do not have are the same",
            file=sys.stderr,
        )
    return found
