"""A search by Optuna: what it may choose, how it keeps the limit of the KL, and how it goes on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightning_rlhf.assembly.search import Search, run_search
from lightning_rlhf.assembly.search_space import space_of
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import write_json

optuna = pytest.importorskip("optuna")

Metrics = Callable[[float], dict[str, float] | None]


class Launcher:
    """Computes the result of a job from its setting `x` instead of training."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.folder, self.metrics = folder, metrics
        self.launched: list[int] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[None]:
        for number, job in enumerate(jobs, initial_job_idx):
            self.launched.append(number)
            (x,) = (float(word.partition("=")[2]) for word in job if word.startswith("x="))
            found = self.metrics(x)
            folder = self.folder / str(number)
            (folder / ".hydra").mkdir(parents=True, exist_ok=True)
            OmegaConf.save(list(job), folder / ".hydra" / "overrides.yaml")
            status = "diverged" if found is None else "finished"
            write_json(folder / "result.json", {"stage": "ppo", "status": status, "metrics": found or {}})
        return [None] * len(jobs)


def search(folder: Path, metrics: Metrics, *words: str, **settings: Any) -> tuple[dict[str, Any], Launcher]:
    """Runs a search, and returns what it has written and the launcher."""
    launcher = Launcher(folder, metrics)
    sweeper = SimpleNamespace(
        hydra_context=SimpleNamespace(config_loader=None),
        config=OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}),
        validate_batch_is_legal=lambda batch: None,
        launcher=launcher,
    )
    folder.mkdir(exist_ok=True)
    run_search(Search(**settings), sweeper, list(words) or ["seed=3", "x=interval(0,1)"])
    return json.loads((folder / "search.json").read_text()), launcher


def hill(x: float) -> dict[str, float]:
    """The gold rate is highest at 0.8, and the KL is 5 at 0.5."""
    return {"gold_rate": 1 - (x - 0.8) ** 2, "kl": 10 * x}


def test_a_search_finds_the_highest_value(tmp_path: Path) -> None:
    found, _ = search(tmp_path, hill, maximise="gold_rate", trials=40)
    best = found["trials"][found["best"]]
    assert best["value"] == max(trial["value"] for trial in found["trials"])
    assert abs(best["settings"]["x"] - 0.8) < 0.05


def test_the_best_run_keeps_the_limit_of_the_kl_and_the_search_stays_near_it(tmp_path: Path) -> None:
    found, _ = search(tmp_path, hill, maximise="gold_rate", kl_limit=5.0, trials=40)
    best = found["trials"][found["best"]]
    assert best["kl"] <= 5
    assert best["settings"]["x"] > 0.42
    # Runs with a higher gold rate beyond the limit exist, and are no better.
    assert max(trial["value"] for trial in found["trials"]) > best["value"]
    assert all(trial["within_limit"] == (trial["kl"] <= 5) for trial in found["trials"])
    # After the first ten, which are drawn at random, the runs are near the limit, and not near the highest gold rate.
    assert sum(abs(trial["settings"]["x"] - 0.5) < 0.15 for trial in found["trials"][10:]) > 12


def test_a_run_that_has_diverged_or_has_no_such_metric_is_never_the_best(tmp_path: Path) -> None:
    found, _ = search(tmp_path, lambda x: None if x > 0.5 else {"score": x}, maximise="score", trials=20)
    assert {trial["value"] is None for trial in found["trials"]} == {True, False}
    assert found["trials"][found["best"]]["settings"]["x"] <= 0.5
    with pytest.raises(UserError, match="search.maximise=gold_rate: no run of .* has finished with a finite gold_rate"):
        search(tmp_path / "other", lambda x: {"score": x}, maximise="gold_rate", trials=2)


def test_a_kl_that_is_not_finite_is_above_every_limit(tmp_path: Path) -> None:
    def metrics(x: float) -> dict[str, float]:
        return {"score": x, "kl": float("inf") if x > 0.5 else 1.0}

    found, _ = search(tmp_path, metrics, maximise="score", kl_limit=2.0, trials=12)
    assert found["trials"][found["best"]]["settings"]["x"] <= 0.5


def test_a_search_in_which_no_run_keeps_the_limit_has_no_best(tmp_path: Path) -> None:
    found, _ = search(tmp_path, lambda x: {"score": x, "kl": 9.0}, maximise="score", kl_limit=2.0, trials=3)
    assert found["best"] is None


def test_a_search_that_is_started_again_runs_only_what_has_not_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, launcher = search(tmp_path, hill, maximise="gold_rate", trials=15)
    assert launcher.launched == list(range(15))
    assert "finished already" not in capsys.readouterr().out
    again, launcher = search(tmp_path, hill, maximise="gold_rate", trials=15)
    assert (launcher.launched, again) == ([], first)
    (tmp_path / "14" / "result.json").unlink()
    again, launcher = search(tmp_path, hill, maximise="gold_rate", trials=18)
    assert launcher.launched == [14, 15, 16, 17]
    assert "search: 14 of 18 runs had finished already" in capsys.readouterr().out
    assert again["trials"][:15] == first["trials"]


def test_a_folder_with_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path, hill, maximise="gold_rate", trials=2)
    with pytest.raises(UserError, match="run 0 there has seed=3 x=.*give the same settings .* or another folder"):
        search(tmp_path, hill, "seed=4", "x=interval(2,3)", maximise="gold_rate", trials=2)


def test_runs_that_are_chosen_together_are_launched_together(tmp_path: Path) -> None:
    batches: list[int] = []

    class Counting(Launcher):
        def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[None]:
            batches.append(len(jobs))
            return super().launch(jobs, initial_job_idx)

    sweeper = SimpleNamespace(
        hydra_context=SimpleNamespace(config_loader=None),
        config=OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}),
        validate_batch_is_legal=lambda batch: None,
        launcher=Counting(tmp_path, hill),
    )
    run_search(Search("gold_rate", trials=7, parallel=3), sweeper, ["x=interval(0,1)"])
    assert batches == [3, 3, 1]


def distribution(word: str) -> Any:
    (found,) = space_of(OverridesParser.create().parse_overrides([word])).distributions.values()
    return found


def test_sweeps_of_hydra_become_distributions() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert distribution("x=interval(0.5,2)") == FloatDistribution(0.5, 2.0)
    assert distribution("x=tag(log,interval(1e-5,1e-3))") == FloatDistribution(1e-5, 1e-3, log=True)
    assert distribution("x=int(interval(1,8))") == IntDistribution(1, 8)
    # The end of a range is not in it.
    assert distribution("x=range(2,9,2)") == IntDistribution(2, 8, step=2)
    assert distribution("x=ppo,grpo") == CategoricalDistribution(["ppo", "grpo"])
    assert distribution("x=choice(true,false)") == CategoricalDistribution(["True", "False"])


def test_a_run_has_the_overrides_of_the_command_in_their_order_with_its_own_values() -> None:
    words = ["stage=ppo", "+x=interval(0,1)", "seed=3", "y=a,b"]
    space = space_of(OverridesParser.create().parse_overrides(words))
    assert space.overrides({"+x": 0.25, "y": "b"}) == ["stage=ppo", "+x=0.25", "seed=3", "y=b"]
    assert space.chosen({"+x": 0.25, "y": "b"}) == ["+x=0.25", "y=b"]


@pytest.mark.parametrize("word", ["x=interval(2,1)", "x=tag(log,interval(0,1))", "x=tag(log,interval(-1,1))"])
def test_an_interval_that_is_empty_or_has_no_logarithm_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="an interval goes from a smaller to a larger number"):
        distribution(word)


def test_a_search_needs_something_to_search_and_possible_numbers() -> None:
    with pytest.raises(UserError, match="no setting is searched"):
        space_of(OverridesParser.create().parse_overrides(["seed=3"]))
    with pytest.raises(UserError) as error:
        Search("score", kl_limit=0.0, trials=0, parallel=0)
    assert str(error.value).splitlines() == [
        "search.trials=0: must be at least 1",
        "search.parallel=0: must be at least 1",
        "search.kl_limit=0.0: must be positive, or null",
    ]
