"""All mistakes of a command line that cannot be composed are found at once."""

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+callbacks=best",
            "+callbacks=best: callbacks has an option already, which callbacks=best replaces: leave out",
        ),
        ("+model=gpt2/small", "+model=gpt2/small: model has an option already, which model=gpt2/small replaces: leave"),
        ("++data=files", "++data=files: the option of a group is chosen without a plus: data=files"),
        ("~callbacks=best", "~callbacks=best: callbacks=best is not chosen, so it cannot be taken away"),
    ],
)
def test_an_option_of_a_group_with_a_wrong_sign_is_told_how_to_write_it(override: str, message: str) -> None:
    problems, config = composition_problems("train", ["stage=sft", override, "sft.modul.lr=1", "seed=7"])
    first, second = problems.lines
    assert first.startswith(message)
    assert second.startswith("there is no setting 'sft.modul.lr'")
    assert config is not None
    assert config.seed == 7


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
