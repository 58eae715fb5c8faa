"""The jobs of a sweep: each has the overrides of its own stages, and no two are the same."""

import sys
from collections.abc import Sequence
from functools import wraps

from hydra.core.override_parser.types import Override

from lightning_rlhf.assembly.sweep_overrides import own_overrides


def run_distinct_jobs(planned: list[list[str]]) -> None:
    """Makes Hydra's own sweeper leave out jobs that differ only in settings of stages that they do not run.

    `stage=sft,ppo ppo.module.lr=1,2` has three jobs: SFT has no `ppo.module.lr`, so it runs once. The method is
    replaced, because Hydra accepts a sweeper of its own class only from a package of the name `hydra_plugins`.

    Args:
        planned: Receives the overrides of each job.
    """
    # When Hydra starts, it loads its plugins again, and this class is another one.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    all_jobs = BasicSweeper.split_arguments

    @wraps(all_jobs)
    def split(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        planned[:] = distinct([job for batch in all_jobs(overrides, None) for job in batch])
        return list(BasicSweeper.split_overrides_to_chunks(planned, max_batch_size))

    BasicSweeper.split_arguments = staticmethod(split)  # type: ignore[method-assign]


def distinct(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs with the overrides of their own stages, each once. A note says that there are fewer."""
    found = list(dict.fromkeys(tuple(own_overrides(job)) for job in jobs))
    if len(found) < len(jobs):
        print(
            f"note: the sweep has {len(found)} runs and not {len(jobs)}, because runs that differ only in settings of "
            "stages that they do not have are the same",
            file=sys.stderr,
        )
    return [list(job) for job in found]
