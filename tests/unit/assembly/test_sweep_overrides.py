"""The jobs of a sweep share overrides of stages that only some of them run."""

from pathlib import Path

import pytest

from lightning_rlhf.assembly.sweep_overrides import of_stages, without_idle


def test_overrides_of_a_stage_that_no_job_runs_are_left_out_with_a_note() -> None:
    kept, note = without_idle(["-m", "stage=sft", "ppo.module.lr=1,2", "+dpo.trainer.max_steps=1", "sft.module.lr=3,4"])
    assert kept == ["-m", "stage=sft", "sft.module.lr=3,4"]
    assert note == "stage=sft ignores ppo.module.lr, dpo.trainer.max_steps"


def test_overrides_of_a_stage_that_some_jobs_run_become_additions() -> None:
    kept, note = without_idle(["--multirun", "stage=sft,pipeline", "ppo.module.lr=1", "sft.module.lr=2"])
    assert kept == ["--multirun", "stage=sft,pipeline", "++ppo.module.lr=1", "sft.module.lr=2"]
    assert note == "stage=sft ignores ppo.module.lr"


def test_one_note_sums_up_what_each_stage_ignores() -> None:
    words = ["-m", "stage=sft,ppo,reward", "ppo.module.lr=1", "sft.module.lr=2", "sft.data.drop_last=true"]
    assert without_idle(words)[1] == (
        "stage=sft,reward ignores ppo.module.lr; stage=ppo,reward ignores sft.module.lr, sft.data.drop_last"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        # Without -m, such an override is a mistake, which the command refuses.
        ["stage=sft", "ppo.module.lr=1"],
        ["-m", "ppo.module.lr=1", "seed=1,2"],
        # Hydra says which stages there are.
        ["-m", "stage=nope", "ppo.module.lr=1"],
    ],
)
def test_all_other_arguments_stay_as_they_are(arguments: list[str]) -> None:
    assert without_idle(arguments) == (arguments, "")


def test_a_job_keeps_the_overrides_of_its_stages() -> None:
    overrides = ["stage=reward", "++ppo.module.lr=1", "reward_model.module.lr=2", "reward.path=x"]
    assert of_stages(overrides, ["reward"]) == ["stage=reward", "reward_model.module.lr=2", "reward.path=x"]


@pytest.fixture
def experiments(tmp_path: Path) -> list[str]:
    """Flags that add experiments which choose a stage: one of this package, one of the user, and one of nobody."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "stage").mkdir()
    for name, stage in {"mine": "dpo", "both": "twice", "other": "unknown"}.items():
        file = tmp_path / "experiment" / f"{name}.yaml"
        file.write_text(f"# @package _global_\ndefaults: [override /stage: {stage}]\n")
    (tmp_path / "stage" / "twice.yaml").write_text("# @package _global_\ndefaults: [sft, dpo]\nstages: [sft, dpo]\n")
    (tmp_path / "stage" / "unknown.yaml").write_text("# @package _global_\nstages: [unknown]\n")
    return ["-m", "--config-dir", str(tmp_path)]


def test_an_experiment_may_choose_the_stage(experiments: list[str]) -> None:
    kept, note = without_idle([*experiments, "experiment=mine", "dpo.module.lr=1,2", "ppo.module.lr=3", "seed=1,2"])
    assert kept == [*experiments, "experiment=mine", "dpo.module.lr=1,2", "seed=1,2"]
    assert note == "stage=dpo ignores ppo.module.lr"


def test_a_sweep_over_experiments_runs_the_stages_of_each(experiments: list[str]) -> None:
    kept, note = without_idle([*experiments, "experiment=mine,both", "dpo.module.lr=1", "sft.module.lr=2"])
    assert kept == [*experiments, "experiment=mine,both", "dpo.module.lr=1", "++sft.module.lr=2"]
    assert note == "stage=dpo ignores sft.module.lr"


def test_a_stage_on_the_command_line_wins_over_that_of_an_experiment(experiments: list[str]) -> None:
    words = [*experiments, "experiment=mine", "stage=sft", "dpo.module.lr=1", "sft.module.lr=2"]
    assert without_idle(words) == ([*words[:5], "sft.module.lr=2"], "stage=sft ignores dpo.module.lr")


def test_a_stage_that_this_package_does_not_have_keeps_all_overrides(experiments: list[str]) -> None:
    words = [*experiments, "experiment=other", "ppo.module.lr=1"]
    assert without_idle(words) == (words, "")
