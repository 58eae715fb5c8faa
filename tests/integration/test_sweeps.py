"""Sweeps that really train: they are started again, search, and run in parallel."""

import json
from pathlib import Path

import pytest
from support import TINY, command, keep, result_of

SFT = keep(TINY, "sft")
# Without answers, which take most of the time of a tiny run.
QUICK = [*SFT, "sft.data.prompts_held_out=null"]


def trained_at(job: Path) -> int:
    """The time at which the weights of a job were written."""
    return (job / "model" / "model.safetensors").stat().st_mtime_ns


@pytest.mark.slow
def test_a_sweep_that_is_started_again_skips_what_has_finished(tmp_path: Path) -> None:
    words = ["-m", *QUICK, "sft.module.lr=1e-3,2e-3", "hydra.sweep.dir=sweep"]
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    jobs = [tmp_path / "sweep" / str(number) for number in range(3)]
    before, results = [trained_at(job) for job in jobs[:2]], [result_of(job) for job in jobs[:2]]
    # As a run that was killed before it wrote anything else than this.
    (jobs[1] / "result.json").write_text(json.dumps({"stage": "sft", "status": "interrupted", "metrics": {}}))
    done = command(tmp_path, *[word.replace("2e-3", "2e-3,3e-3") for word in words])
    assert done.returncode == 0, done.stderr
    assert trained_at(jobs[0]) == before[0]
    assert trained_at(jobs[1]) > before[1]
    assert (done.stdout + done.stderr).count("finished already") == 1
    assert [result_of(job)["status"] for job in jobs] == ["finished"] * 3
    # The checks at the start, which the run card shows, are in the record of every run.
    assert all(result_of(job)["checks"] for job in jobs)
    assert [result_of(job)["metrics"] for job in jobs[:2]] == [result["metrics"] for result in results]


@pytest.mark.slow
def test_a_folder_with_the_runs_of_another_sweep_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    words = ["-m", *QUICK, "hydra.sweep.dir=sweep"]
    assert command(tmp_path, *words, "sft.module.lr=1e-3").returncode == 0
    before = trained_at(tmp_path / "sweep" / "0")
    table = (tmp_path / "sweep" / "sweep.csv").read_text()
    done = command(tmp_path, *words, "sft.module.lr=5e-3")
    assert done.returncode == 2
    assert "run 0 there has sft.module.lr=0.001, and now would have sft.module.lr=0.005" in done.stderr
    assert "Traceback" not in done.stderr
    assert trained_at(tmp_path / "sweep" / "0") == before
    assert (tmp_path / "sweep" / "sweep.csv").read_text() == table


@pytest.mark.slow
def test_a_search_trains_runs_and_names_the_best(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = ["-m", *SFT, "search=optuna", "search.maximise=gold_mean", "search.trials=3", "hydra.sweep.dir=sweep"]
    words.append("sft.module.lr=tag(log,interval(1e-4,1e-2))")
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "sweep" / "search.json").read_text())
    results = [result_of(tmp_path / "sweep" / str(number)) for number in range(3)]
    assert [trial["value"] for trial in found["trials"]] == [result["metrics"]["gold_mean"] for result in results]
    rates = [trial["settings"]["sft.module.lr"] for trial in found["trials"]]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert (
        f"the highest gold_mean is {max(t['value'] for t in found['trials']):.4g}, in run {found['best']}"
        in done.stdout
    )
    assert (tmp_path / "sweep" / "sweep.csv").is_file()


@pytest.mark.slow
def test_a_search_in_other_processes_keeps_its_limit_and_is_taken_up_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    limit = 0.5
    words = ["-m", *keep(TINY, "ppo"), "reward=function", "reward.function=lightning_rlhf.demo.gold:gold"]
    words += ["search=optuna", "search.trials=2", "search.parallel=2", f"search.kl_limit={limit}"]
    words += ["search.maximise=gold_mean", "ppo.module.lr=tag(log,interval(1e-5,1e-2))"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    jobs = [tmp_path / "sweep" / str(number) for number in range(2)]
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    before = [trained_at(job) for job in jobs]
    kls = [result_of(job)["metrics"]["kl"] for job in jobs]
    found = json.loads((tmp_path / "sweep" / "search.json").read_text())
    assert [(trial["kl"], trial["within_limit"]) for trial in found["trials"]] == [(kl, kl <= limit) for kl in kls]
    kept = [trial for trial in found["trials"] if trial["within_limit"]]
    assert found["best"] == (max(kept, key=lambda trial: trial["value"])["run"] if kept else None)
    words[words.index("search.trials=2")] = "search.trials=3"
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "search: 2 of 3 runs had finished already" in done.stdout
    assert [trained_at(job) for job in jobs] == before
    longer = json.loads((tmp_path / "sweep" / "search.json").read_text())
    assert longer["trials"][:2] == found["trials"]
    assert len(longer["trials"]) == 3


def test_a_search_with_wrong_settings_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    searched = "sft.module.lr=interval(1e-4,1e-3)"
    for words, said in (
        ([], "no setting is searched"),
        ([searched, "search.trials=0"], "search.trials=0: must be at least 1"),
        ([searched, "search.maximise=3"], "search.maximise=3: expected a text"),
        ([searched, "+search.trails=3"], "search.trails: "),
    ):
        done = command(tmp_path, "-m", *SFT, "search=optuna", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert "Warning" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_with_a_search_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, *SFT, "search=optuna")
    assert (done.returncode, "add -m, or leave it out" in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def numbers_of_this_process(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The metrics of the runs of a sweep that one process has run one after the other."""
    return numbers(tmp_path_factory.mktemp("here"))


def numbers(folder: Path, *words: str) -> list[dict[str, float]]:
    done = command(folder, "-m", *QUICK, "sft.module.lr=1e-3,2e-3", "hydra.sweep.dir=sweep", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return [result_of(folder / "sweep" / str(number))["metrics"] for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "launcher"),
    [
        ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]),
    ],
    ids=["joblib", "submitit_local"],
)
def test_runs_in_other_processes_give_the_numbers_of_runs_in_this_one(
    package: str, launcher: list[str], numbers_of_this_process: list[dict[str, float]], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    assert numbers(tmp_path, *launcher) == numbers_of_this_process
    assert numbers_of_this_process[0] != numbers_of_this_process[1]
    assert (tmp_path / "sweep" / "sweep.csv").is_file()
