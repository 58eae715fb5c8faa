"""`train resume=RUN`: the overrides of the run and those of the command line become one command line."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightning_rlhf.assembly.going_on import command_to_go_on, continued, save_command, with_earlier_overrides
from lightning_rlhf.assembly.quoting import override
from lightning_rlhf.assembly.run_files import read_overrides
from lightning_rlhf.errors import UserError


def run(folder: Path, *overrides: str) -> Path:
    """The folder of a run with these overrides."""
    save_command(folder, OmegaConf.create({}), overrides)
    return folder


def went_on(folder: Path, *given: str) -> list[str]:
    """The overrides after those that name the folder."""
    words = with_earlier_overrides([f"resume={folder}", *given])
    assert words[:2] == [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
    return [word for word in words[2:] if word != f"resume={folder}"]


def test_the_run_folder_alone_gives_the_overrides_and_the_folder_to_write_to(tmp_path: Path) -> None:
    folder = run(tmp_path, "model=tiny", "stage=sft", "+sft.trainer.limit_train_batches=2")
    assert went_on(folder) == ["model=tiny", "stage=sft", "+sft.trainer.limit_train_batches=2"]


def test_a_command_without_a_run_folder_stays_as_it_is(tmp_path: Path) -> None:
    for words in (
        ["stage=sft"],
        ["stage=sft", f"resume={tmp_path}"],
        ["resume=last.ckpt", "-m", "seed=1,2"],
        ["resume=(", "a"],
        [],
    ):
        assert with_earlier_overrides(words) == words


@pytest.mark.parametrize(
    ("earlier", "given", "expected"),
    [
        # The same key, whatever sign it has.
        (["seed=1", "stage=sft"], ["seed=2"], ["stage=sft", "seed=2"]),
        (["+sft.trainer.max_time=1"], ["sft.trainer.max_time=2"], ["+sft.trainer.max_time=2"]),
        (["+sft.trainer.max_time=1"], ["++sft.trainer.max_time=2"], ["++sft.trainer.max_time=2"]),
        # The same words again, as `resume=auto` has them, in which a key is added and then changed.
        (["+sft.trainer.max_time=1", "sft.trainer.max_time=2"], ["+sft.trainer.max_time=1", "sft.trainer.max_time=2"],
         ["+sft.trainer.max_time=1", "sft.trainer.max_time=2"]),
        # An addition of the run that is taken back; and a setting of the configuration that is removed.
        (["+sft.trainer.max_time=1", "seed=2"], ["~sft.trainer.max_time"], ["seed=2"]),
        (["sft.callbacks.x=1"], ["~sft.callbacks.x"], ["~sft.callbacks.x"]),
        # Another option of a group: its settings are others.
        (["reward=function", "reward.function=a"], ["reward=length"], ["reward=length"]),
        (["reward=http", "reward.url=http://a"], ["reward=http"], ["reward.url=http://a", "reward=http"]),
        (["logger.csv.name=a", "logger=csv"], ["logger.csv.name=b"], ["logger=csv", "logger.csv.name=b"]),
        # The same group, put into two places.
        (["+callbacks@sft.a=none"], ["+callbacks@sft.b=none"], ["+callbacks@sft.a=none", "+callbacks@sft.b=none"]),
    ],
)  # fmt: skip
def test_what_the_command_line_says_replaces_what_the_run_said(
    earlier: list[str], given: list[str], expected: list[str], tmp_path: Path
) -> None:
    assert went_on(run(tmp_path, *earlier), *given) == expected


def test_a_command_line_that_was_completed_stays_as_it_is(tmp_path: Path) -> None:
    # The ranks that Lightning starts get the words that the first one has completed and saved, and complete them again.
    folder = run(tmp_path, "model=tiny", "+sft.trainer.max_time=1", "reward=function", "reward.function=a:b")
    words = with_earlier_overrides([f"resume={folder}", "reward=length", "~sft.trainer.max_time"])
    save_command(folder, OmegaConf.create({}), words[2:])
    assert sorted(with_earlier_overrides(words)) == sorted(words)


def test_a_run_of_a_sweep_and_one_into_another_folder_take_the_overrides_and_choose_their_folder(
    tmp_path: Path,
) -> None:
    folder = run(tmp_path, "model=tiny")
    for more in (["hydra.run.dir=there"], ["-m", "seed=1,2"]):
        words = with_earlier_overrides([f"resume={folder}", *more])
        assert sorted(words) == sorted(["model=tiny", f"resume={folder}", *more])


def test_a_run_that_left_nothing_goes_on_from_the_run_that_it_went_on_from(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(["stage=sft", "resume=first"]), folder / ".hydra" / "overrides.yaml")
    assert went_on(folder) == ["stage=sft", "resume=first"]
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    assert went_on(folder) == ["stage=sft"]


CODE = [
    "reward.function=my_rewards:is_short",
    "ppo.module.credit.advantage=my.module:mine",
    "+callbacks.own={_target_: os.system, args: 'true'}",
    "callbacks.export._target_=os.system",
    "+callbacks.own={deep: [{_target_: os.system}]}",
    "+sft.callbacks.own._args_=[1]",
    "model.trust_remote_code=true",
    "logger.wandb.project=${oc.env:SECRET}",
    "seed=${oc.decode:'1'}",
    "experiment='../../../somewhere/else'",
    "model=[tiny,'../x']",
    "trainer.strategy=deepspeed",
    "+sft.trainer.plugins=[x]",
    "+model@hydra.callbacks=tiny",
]


@pytest.mark.parametrize("override", CODE)
def test_code_runs_only_if_the_command_line_names_it(override: str, tmp_path: Path) -> None:
    folder = run(tmp_path, "stage=sft", override)
    with pytest.raises(UserError) as refused:
        with_earlier_overrides([f"resume={folder}"])
    assert str(refused.value).startswith(f"{folder}/.hydra/overrides.yaml: {override}: ")
    # The end of the message is what the user adds to the command.
    (named,) = shlex.split(str(refused.value).rpartition("command: ")[2])
    assert went_on(folder, named) == ["stage=sft", override]


@pytest.mark.parametrize(
    "override",
    [
        "data.path=../pairs.jsonl",
        "data.path='a b, (c).jsonl'",
        "+sft.trainer.max_time=00:00:00:05",
        "reward.url=http://localhost:8000/score",
        "trainer.strategy.gather_for_generation=false",
        "~reward_model.callbacks.normalize",
        "model=gpt2/small",
    ],
)
def test_plain_settings_need_not_be_named_again(override: str, tmp_path: Path) -> None:
    assert went_on(run(tmp_path, override)) == [override]


@pytest.mark.parametrize(
    "text", ["- hydra.callbacks={}", "- hydra/launcher=basic", "- seed=1,2", "- a b", "a: 1", "- {a: 1}", "["]
)
def test_a_file_that_no_run_leaves_is_an_error_with_its_name(text: str, tmp_path: Path) -> None:
    file = run(tmp_path) / ".hydra" / "overrides.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="overrides.yaml: "):
        with_earlier_overrides([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "name", ["plain", "with space", "a=b", "(x), {y}", "it's", 'say "x"', "~", "null", "back\\slash"]
)
def test_the_line_to_go_on_survives_the_shell_and_hydra(name: str, tmp_path: Path) -> None:
    folder = run(tmp_path / name, "seed=2", "reward.function=a:b")
    words = ["--config-dir", "mine", "seed=2", "reward.function=a:b", "resume=x.ckpt", "hydra.job.name=y", "stage=sft"]
    line = command_to_go_on(folder, ["lightning-rlhf", "train"], words)
    *program, resume, code, unsaved = shlex.split(line)
    assert program == ["lightning-rlhf", "train", "--config-dir", "mine"]
    assert OverridesParser.create().parse_override(resume).value() == str(folder)
    # What the folder holds need not be repeated, except code.
    assert [code, unsaved] == ["reward.function=a:b", "stage=sft"]


def test_a_text_is_quoted_only_if_hydra_would_read_it_otherwise() -> None:
    assert override("resume", "outputs/ppo/2026") == "resume=outputs/ppo/2026"
    assert override("resume", "1e3") == 'resume="1e3"'


def test_the_folder_keeps_the_overrides_of_the_last_command_without_the_folder_itself(tmp_path: Path) -> None:
    save_command(tmp_path, OmegaConf.create({"run_dir": "${x}"}), [f"resume={tmp_path}", "seed=2"])
    overrides = read_overrides(tmp_path / ".hydra" / "overrides.yaml")
    assert [override.input_line for override in overrides] == ["seed=2"]
    assert (tmp_path / ".hydra" / "config.yaml").read_text() == "run_dir: ${x}\n"


def test_auto_begins_a_run_and_then_goes_on_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    words = ["resume=auto", f"hydra.run.dir={folder}", "model=tiny", "seed=2"]
    assert with_earlier_overrides(words) == words[1:]
    # Hydra writes the overrides before the run begins.
    run(folder, "model=tiny", "seed=2")
    assert with_earlier_overrides(words) == words[1:]
    (folder / "result.json").write_text("{}")
    there = [f"hydra.run.dir={folder}", "hydra.output_subdir=null", f"resume={folder}"]
    assert sorted(with_earlier_overrides(words)) == sorted([*there, "model=tiny", "seed=2"])


@pytest.mark.parametrize("folder", [[], ["hydra.run.dir=outputs/${now:%H-%M-%S}"]])
def test_auto_needs_a_folder_that_stays_the_same(folder: list[str]) -> None:
    with pytest.raises(UserError, match="resume=auto: .* add hydra.run.dir=FOLDER"):
        with_earlier_overrides(["resume=auto", *folder])


def test_auto_leaves_the_jobs_of_a_sweep_to_go_on_by_themselves(tmp_path: Path) -> None:
    assert with_earlier_overrides(["-m", "resume=auto", "seed=1,2"]) == ["-m", "seed=1,2"]
    for resume in ("auto", None):
        config = OmegaConf.create({"resume": resume})
        assert continued(config, tmp_path / "absent").resume is None
        (tmp_path / "result.json").write_text("{}")
        assert continued(config, tmp_path).resume == str(tmp_path)
