"""The commands and the row in docs/labelling.md."""

import json
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.target_checks import arguments
from lightning_rlhf.data.formats import read_records

DOC = (Path(__file__).parents[4] / "docs" / "labelling.md").read_text()
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", DOC, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("lightning-rlhf")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_has_the_settings_that_there_are(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_PASSWORD", "open sesame")
    name, *overrides = [word.replace("<run>", "run") for word in command]
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose(name, overrides)
    if name == "label":
        settings = arguments(config, "lightning_rlhf.assembly.label.label")
        assert settings["password"] in (None, "open sesame")
    else:
        assert name == "train"
        assert config.data.path.startswith("labels.")


def test_there_are_commands_to_check() -> None:
    assert [command[0] for command in COMMANDS] == ["label"] * 2 + ["train"] * 3


def test_the_row_that_is_shown_is_a_pair(tmp_path: Path) -> None:
    (row,) = re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "labels.jsonl").write_text(json.dumps(json.loads(row)))
    (record,) = read_records(str(tmp_path / "labels.jsonl"), "pair").rows
    assert record.messages[-1]["content"] == "Because."


def test_every_key_of_the_page_is_documented_and_in_its_help() -> None:
    folder = Path(__file__).parents[4] / "src" / "lightning_rlhf" / "web" / "label"
    acts = (folder / "act.js").read_text()
    keys = set(re.findall(r'^\s+"?([=\w])"?: \(\) =>', acts, re.MULTILINE)) | set(re.findall(r" ([a-z]): [\w(]", acts))
    keys &= set("=0slcmendrup")
    assert len(keys) == 12
    table = DOC.partition("| key | meaning |")[2].partition("\n\n")[0]
    help = (folder / "page.html").read_text().partition('<dialog id="help">')[2].partition("</dialog>")[0]
    for key in keys:
        assert re.search(rf"^\|[^|]*(?<!\w){key}(?!\w)[^|]*\|", table, re.MULTILINE), key
        assert f"<kbd>{key}</kbd>" in help
