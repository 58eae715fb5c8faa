"""What `--help` and `--version` say, for every command."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.config_files import CONF, command_file, groups_of, options, settings
from lightning_rlhf.cli import COMMANDS, help
from lightning_rlhf.cli.help import of_command, overview, versions
from lightning_rlhf.errors import UserError

OF_TRAIN = ("train", "plan", "doctor", "benchmark")
WITH_LLM = ("generate-dataset", "score-dataset")


def examples(command: str) -> list[list[str]]:
    """The overrides of each example in the help of a command."""
    text = of_command(command, []).replace("\\\n", "")
    return [shlex.split(line) for line in re.findall(rf"^  lightning-rlhf {command}\b(.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_two_examples_that_compose(command: str) -> None:
    found = examples(command)
    assert len(found) >= 2
    for words in found:
        overrides = [re.sub(r",.*", "", word) for word in words if word != "-m"]
        with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
            compose(command_file(command).stem, overrides)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_explains_all_its_own_settings(command: str) -> None:
    words = " ".join(of_command(command, []).split())
    for setting in settings(command_file(command)):
        assert f" {setting.name}={setting.default} {setting.comment}".rstrip() in words


def test_a_setting_is_followed_by_the_comment_that_its_file_has() -> None:
    text = of_command("serve-reward", [])
    assert "  port=8000\n      0 takes a free port.\n" in text
    assert "  model_dir=???\n      Folder of a trained reward model.\n" in text


def test_only_commands_that_take_groups_show_them() -> None:
    text = of_command("train", [])
    for group in groups_of("train"):
        (shown,) = re.findall(rf"^  {group} (.*(?:\n {{14}}.*)*)", text, re.MULTILINE)
        names = re.split(r",\s+", shown.strip())
        assert {name for name in options(group) if "/" not in name} <= set(names)
    # The 19 sizes of GPT-2 are folded, and so are those of the other families.
    assert f"gpt2/ ({len(list((CONF / 'model' / 'gpt2').glob('*.yaml'))) - 1})" in text
    assert "gpt2/small" not in text.partition("Groups")[2]
    for command in COMMANDS:
        assert ("[GROUP=OPTION" in of_command(command, [])) == (command in (*OF_TRAIN, *WITH_LLM))
    for command in WITH_LLM:
        assert groups_of(command) == ["llm", "model"]
        assert f"lightning-rlhf {command} llm=openai --help explains" in of_command(command, [])


def test_the_help_of_an_option_is_its_file_after_those_that_it_builds_on() -> None:
    text = of_command("train", ["model=gpt2/small", "seed=3"])
    files = [CONF / "model" / f"{name}.yaml" for name in ("base", "gpt2/base", "gpt2/small")]
    places = [text.index(file.read_text().strip()) for file in files]
    assert places == sorted(places)
    with pytest.raises(UserError, match="there is no stage=pop; there are dpo, pipeline,"):
        of_command("train", ["stage=pop"])


def test_the_overview_names_each_command_and_what_it_does() -> None:
    lines = overview(COMMANDS).splitlines()
    assert [line.split()[0] for line in lines if re.match("  [a-z]", line)] == list(COMMANDS)


@pytest.mark.parametrize("columns", [80, 100])
def test_no_line_of_the_help_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = {command: of_command(command, []) for command in COMMANDS} | {"": overview(COMMANDS)}
    # A word is never broken, so that it can be copied.
    wide = [line for text in texts.values() for line in text.splitlines() if len(line) > columns]
    assert wide == []
    for command in COMMANDS:
        assert len(examples(command)) >= 2
    # Folded lines of the shell are one example.
    assert "response_length=512" in examples("plan")[1]


def test_comments_fit_into_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    comments = [line for line in of_command("serve-reward", []).splitlines() if line.startswith(" " * 6)]
    assert 50 < max(map(len, comments)) <= 60


def test_the_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(help, "_PACKAGES", ("torch", "no-such-package"))
    lines = versions().splitlines()
    assert lines[-1] == "no-such-package is not installed"
    assert lines[0] == f"lightning-rlhf {version('lightning-rlhf')}"
    assert f"torch {version('torch')}" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: unknown command 'trian'; known: train, plan,"),
        (["train", "stage=pop", "--help"], "error: there is no stage=pop;"),
        (["-sc", "install=tcsh"], "error: -sc install=tcsh: expected install=SHELL"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_rlhf.cli", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_settings_below_others_are_named_with_a_dot_and_explained() -> None:
    text = of_command("chat", [])
    assert "  sampling.temperature=0.7\n      0 takes the likeliest token each time.\n" in text
    # A mapping in braces is one value, and what changes settings of train is no setting of a command.
    assert "  judge.settings={temperature: 0.0}\n" in of_command("evaluate", [])
    assert "\n  model" not in of_command("benchmark", []).partition("Settings")[2]
