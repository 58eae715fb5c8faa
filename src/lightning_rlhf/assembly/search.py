"""Searches settings with Optuna: the runs of a sweep are chosen one after the other, by the results of those before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightning_rlhf.assembly.run_files import overrides_of
from lightning_rlhf.assembly.search_space import Space, space_of
from lightning_rlhf.assembly.sweeper import check_jobs
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError, raise_problems, require
from lightning_rlhf.saving import read_json, write_json

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Search:
    """What a sweep searches for.

    Args:
        maximise: The held-out metric to maximise, of the last stage of a run.
        kl_limit: Largest KL to the start model that a run may end with, in nats a response; None sets no limit.
        trials: Number of runs.
        parallel: Number of runs that are chosen before the results of each other are known.
        seed: Seed of the search.

    Raises:
        UserError: If a number is impossible.
    """

    maximise: str
    kl_limit: float | None = None
    trials: int = 20
    parallel: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        """Checks the numbers."""
        problems = [
            f"search.{name}={value}: must be at least 1"
            for name, value in (("trials", self.trials), ("parallel", self.parallel))
            if value < 1
        ]
        if self.kl_limit is not None and not self.kl_limit > 0:
            problems.append(f"search.kl_limit={self.kl_limit}: must be positive, or null")
        raise_problems(problems)


@dataclass(frozen=True)
class Outcome:
    """What a run has reached. `value` is None if the run has failed or has no such metric.

    `kl` is None if the run has no KL, and infinite if its KL was not finite.
    """

    value: float | None
    kl: float | None

    @property
    def is_usable(self) -> bool:
        """Whether the value is a finite number."""
        return self.value is not None and math.isfinite(self.value)


def run_search(search: Search, sweeper: Any, arguments: Sequence[str]) -> list[Any]:
    """Runs the trials of a search by the launcher of a sweep.

    The sampler is Optuna's TPE (Bergstra et al., "Algorithms for hyper-parameter optimization", 2011), to which the KL
    limit is a constraint. A trial whose run is in the folder of the sweep already, finished and with the same settings,
    is not run again. Since the sampler depends on the seed and on the results alone, a search that was stopped and is
    started again chooses the runs that it had chosen.

    Args:
        search: What to search for.
        sweeper: Hydra's sweeper, whose launcher runs the jobs.
        arguments: The overrides, of which some name intervals or choices.

    Returns:
        What the launcher has returned for each batch of runs.

    Raises:
        UserError: If Optuna is not installed, or no override names an interval or a choice.
    """
    require("optuna", "sweeps", "search=optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    space = space_of(parser.parse_overrides(list(arguments)))
    folder = Path(sweeper.config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(sweeper.config, folder / "multirun.yaml")
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=search.seed))
    returned: list[Any] = []
    overrides: list[list[str]] = []
    known = 0
    while len(study.trials) < search.trials:
        count = min(search.parallel, search.trials - len(study.trials))
        trials = [study.ask(dict(space.distributions)) for _ in range(count)]
        jobs = [space.overrides(trial.params) for trial in trials]
        first = len(overrides)
        overrides += jobs
        check_jobs(folder, jobs, first)
        done = sum(finished(folder / str(first + i), job) for i, job in enumerate(jobs))
        known += done
        if done < count:
            sweeper.validate_batch_is_legal(jobs)
            returned.append(sweeper.launcher.launch(jobs, initial_job_idx=first))
        for i, trial in enumerate(trials):
            _tell(study, trial, outcome(folder / str(first + i), search.maximise), search.kl_limit)
    if known:
        console.say(f"search: {known} of {search.trials} runs had finished already")
    _report(search, study, folder, space)
    return returned


def finished(job: Path, overrides: Sequence[str]) -> bool:
    """Whether a job of a sweep has finished with these overrides.

    Args:
        job: Folder of the job.
        overrides: Its overrides.
    """
    return read_json(job / "result.json").get("status") == "finished" and overrides_of(job) == list(overrides)


def outcome(job: Path, maximise: str) -> Outcome:
    """What a job has reached, from its `result.json`.

    Args:
        job: Folder of the job.
        maximise: Name of the metric.
    """
    result = read_json(job / "result.json")
    if result.get("status") != "finished":
        return Outcome(None, None)
    stages = result.get("stages")
    last = list(stages.values())[-1] if isinstance(stages, Mapping) and stages else result
    metrics = last.get("metrics", {})
    # JSON has no infinity, so null stands for a value that is not finite.
    kl = math.inf if "kl" in metrics and metrics["kl"] is None else metrics.get("kl")
    return Outcome(metrics.get(maximise), kl)


def _tell(study: "optuna.Study", trial: "optuna.Trial", found: Outcome, kl_limit: float | None) -> None:
    import optuna

    trial.set_user_attr("kl", found.kl)
    if not found.is_usable:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    if kl_limit is not None:
        # Optuna takes a trial as feasible if no constraint is above 0.
        trial.set_constraint("kl", _kl(found.kl) - kl_limit)
    study.tell(trial, found.value)


def _kl(kl: float | None) -> float:
    """A run without a KL, such as one of SFT, has not left its start model by this measure."""
    return 0.0 if kl is None else kl


def _report(search: Search, study: "optuna.Study", folder: Path, space: Space) -> None:
    """Writes `search.json`, and prints the best run that keeps the limit."""
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        raise UserError(
            f"search.maximise={search.maximise}: no run of {folder} has finished with a finite {search.maximise}; "
            "sweep.csv there shows the metrics that runs have"
        )
    limit = math.inf if search.kl_limit is None else search.kl_limit
    kept = [trial for trial in done if _kl(trial.user_attrs["kl"]) <= limit]
    best = max(kept, key=lambda trial: trial.value or 0.0) if kept else None
    record = {
        "maximise": search.maximise,
        "kl_limit": search.kl_limit,
        "best": None if best is None else best.number,
        "trials": [
            {
                "run": trial.number,
                "settings": trial.params,
                "value": trial.value,
                "kl": trial.user_attrs["kl"],
                "within_limit": trial in kept,
            }
            for trial in study.trials
        ],
    }
    write_json(folder / "search.json", record)
    if best is None:
        console.say(f"search: no run has kept kl_limit={search.kl_limit}; {folder / 'search.json'} has all runs")
        return
    chosen = " ".join(space.chosen(best.params))
    console.say(f"search: the highest {search.maximise} is {best.value:.4g}, in run {best.number}: {chosen}")
