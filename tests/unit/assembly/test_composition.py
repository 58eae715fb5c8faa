"""All mistakes of a command line that cannot be composed are found at once."""

from pathlib import Path

from lightning_rlhf.assembly.composition import composition_problems


def test_each_wrong_override_is_named_and_the_rest_is_composed() -> None:
    problems, config = composition_problems(
        "train", ["stage=sft", "data=files", "data.path=a=b", "model=nope", "sft.modul.lr=1", "sft.module.lr=0.5"]
    )
    assert [line.split(";")[0].split(": ")[0] for line in problems.lines] == [
        "data.path=a=b",
        "there is no model=nope",
        "there is no setting 'sft.modul.lr'",
    ]
    assert config is not None
    # The value that was meant is used to look for further mistakes.
    assert (config.data.path, config.sft.module.lr) == ("a=b", 0.5)


def test_a_sweep_is_composed_with_its_first_values() -> None:
    problems, config = composition_problems("train", ["-m", "stage=sft,reward", "sft.module.lr=3,4", "no.such=1"])
    assert len(problems.lines) == 1
    assert config is not None
    assert (list(config.stages), config.sft.module.lr) == (["sft"], 3)


def test_options_in_a_folder_of_the_user_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "a=b, c"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mine.yaml").write_text("defaults: [demo]\nseed: 7\n")
    problems, config = composition_problems("train", ["--config-dir", str(folder), "model=mine", "no.such=1"])
    assert len(problems.lines) == 1
    assert config is not None
    assert config.model.seed == 7


def test_a_command_line_without_a_mistake_has_no_problems() -> None:
    assert composition_problems("plan", ["stage=sft", "device_memory=1GB"])[0].lines == []
