"""The jobs of a sweep: each has the overrides of its own stages, and no two are the same."""

import sys

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from lightning_rlhf.assembly.sweep import plan_jobs
from lightning_rlhf.assembly.sweep_overrides import own_overrides


class DistinctSweeper(BasicSweeper):
    """Hydra's sweeper without jobs that differ only in settings of stages that they do not run.

    `stage=sft,ppo ppo.module.lr=1,2` has three jobs: SFT has no `ppo.module.lr`, so it runs once.
    """

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Returns the overrides of each job, in batches."""
        batches = BasicSweeper.split_arguments(overrides, None)
        jobs = [own_overrides(job) for batch in batches for job in batch]
        distinct = list(dict.fromkeys(map(tuple, jobs)))
        if len(distinct) < len(jobs):
            print(
                f"note: the sweep has {len(distinct)} runs and not {len(jobs)}, because runs that differ only in "
                "settings of stages that they do not have are the same",
                file=sys.stderr,
            )
        found = [list(job) for job in distinct]
        plan_jobs(found)
        return list(BasicSweeper.split_overrides_to_chunks(found, max_batch_size))
