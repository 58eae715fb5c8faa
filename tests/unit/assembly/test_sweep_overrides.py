"""The jobs of a sweep share overrides of stages that only some of them run."""

import re
from pathlib import Path

import pytest

from lightning_rlhf.assembly.config_files import CONF, groups, options
from lightning_rlhf.assembly.job_stages import composer_of
from lightning_rlhf.assembly.sweep_overrides import of_stages, without_idle
from lightning_rlhf.assembly.sweeper import distinct


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


def test_the_value_of_a_flag_is_no_override() -> None:
    words = ["-m", "--config-dir", "sft", "stage=ppo", "ppo.module.lr=1,2"]
    assert without_idle(words) == (words, "")


def test_the_note_has_the_stages_that_an_override_lists() -> None:
    words = ["-m", "stages=[sft],[dpo]", "ppo.module.lr=1", "sft.module.lr=2"]
    assert without_idle(words)[1] == "stages=[sft],[dpo] ignores ppo.module.lr; stages=[dpo] ignores sft.module.lr"


def test_only_what_may_choose_stages_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    composer, composed = composer_of(["seed=1"]), list[list[str]]()
    load = composer._loader.load_configuration
    monkeypatch.setattr(composer, "_known", {})
    monkeypatch.setattr(
        composer._loader, "load_configuration", lambda *given: composed.append(given[1]) or load(*given)
    )
    words = ["-m", "stage=sft,ppo", "model=gpt2/small,llama/7b", "adapter=lora,none", "seed=1,2,3", "ppo.module.lr=1,2"]
    kept, _ = without_idle(words)
    distinct([["stage=ppo", "model=gpt2/small", f"seed={seed}", "ppo.module.lr=1"] for seed in (1, 2)], composer)
    assert len(kept) == len(words)
    # The sweeper asks the same composer.
    assert composed == [["stage=sft"], ["stage=ppo"]]


def test_an_option_of_the_user_may_choose_the_stage_in_another_group(experiments: list[str]) -> None:
    folder = Path(experiments[-1]) / "algorithm"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults: [override /stage: dpo]\n")
    kept, note = without_idle([*experiments, "algorithm=mine", "dpo.module.lr=1", "ppo.module.lr=3"])
    assert kept == [*experiments, "algorithm=mine", "dpo.module.lr=1"]
    assert note == "stage=dpo ignores ppo.module.lr"


def test_only_stages_and_experiments_of_this_package_choose_stages() -> None:
    others = [CONF / group / f"{option}.yaml" for group in groups() for option in options(group)]
    others = [file for file in others if file.relative_to(CONF).parts[0] not in ("stage", "experiment")]
    assert not [file for file in others if re.search(r"^stages:|/stage\b", file.read_text(), re.MULTILINE)]


def test_a_defect_in_composing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    composer = composer_of([])
    monkeypatch.setattr(composer, "_known", {})
    monkeypatch.setattr(composer._loader, "load_configuration", lambda *_: {}["a defect"])
    with pytest.raises(KeyError, match="a defect"):
        composer.stages(["stage=sft"])


def test_a_stage_that_this_package_does_not_have_keeps_all_overrides(experiments: list[str]) -> None:
    words = [*experiments, "experiment=other", "ppo.module.lr=1"]
    assert without_idle(words) == (words, "")
