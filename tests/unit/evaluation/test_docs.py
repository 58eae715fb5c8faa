"""The commands of docs/evaluation.md and docs/chat.md are understood as they are written."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lightning_rlhf.assembly.chat_settings import ChatSettings
from lightning_rlhf.assembly.config_files import command_file
from lightning_rlhf.assembly.evaluate_settings import EvaluateSettings
from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.settings import check_settings
from lightning_rlhf.chat.commands import HELP

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("evaluation", "chat")}
COMMANDS = [
    shlex.split(line)
    for text in PAGES.values()
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("lightning-rlhf")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_the_docs_is_understood(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, name, *words = command
    overrides = [word.replace("<run>", "RUN") for word in words]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose(command_file(name).stem, overrides + (["run_dir=run"] if name == "train" else []))
    for key, value in (word.split("=", 1) for word in overrides if not word.startswith(("data=", "stage=", "exper"))):
        assert str(OmegaConf.select(config, key)).lower() == value.strip('"').lower()
    if name == "evaluate":
        EvaluateSettings.of(config)
    elif name == "chat":
        ChatSettings.of(config)
    else:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "outputs/sft/RUN/model").mkdir(parents=True)
        (tmp_path / "outputs/chat").mkdir()
        (tmp_path / config.data.path).touch()
        problems = Problems()
        check_settings(config, problems)
        assert problems.lines == []


def test_there_are_commands_to_check() -> None:
    assert [name for _, name, *_ in COMMANDS] == ["evaluate"] * 6 + ["chat"] * 3 + ["train"] * 2


def test_the_table_of_commands_is_the_help_of_the_terminal() -> None:
    shown = dict(re.findall(r"^\| `(/.*?)` \| (.*?) \|$", PAGES["chat"], re.MULTILINE))
    assert shown.keys() == HELP.keys()
    assert shown["/regenerate"] == HELP["/regenerate"]
    assert shown["/temperature NUMBER"] == HELP["/temperature NUMBER"]
