"""Each block of the documentation has a language, is run or says why not, and its commands and rows are right."""

import ast
import json
import re
import tomllib
from typing import get_args

import pytest
import yaml
from doc_blocks import BLOCKS, CODE, ROOT, SHOWN, Block, command_of
from omegaconf import OmegaConf

from lightning_rlhf.assembly.chat_settings import ChatSettings
from lightning_rlhf.assembly.composition import composition_problems
from lightning_rlhf.assembly.evaluate_settings import EvaluateSettings
from lightning_rlhf.assembly.settings import check_settings
from lightning_rlhf.assembly.target_checks import arguments, check_targets
from lightning_rlhf.cli import COMMANDS
from lightning_rlhf.data.formats import read_records
from lightning_rlhf.data.suggestions import Need
from lightning_rlhf.errors import UserError

OURS = [(block, words) for block in BLOCKS if block.language == "bash" for words in block.commands]
ROWS = [block for block in BLOCKS if block.page == "data_formats.md" and block.language == "json"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MAKE = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
# The functions that commands call, and what reads the settings of others.
TARGETS = {"report": "report.report", "export": "publish.publish", "label": "label.label"}
SETTINGS = {"chat": ChatSettings.of, "evaluate": EvaluateSettings.of}
# Lines in the blocks for the shell that start no command of this package, with what can be checked of them.
OTHERS = (
    "cat",
    "curl",
    "docker",
    "export",
    "eval",
    "hf",
    "lm_eval",
    "sbatch",
    "source",
    "transformers",
    "vllm",
    "wandb",
)


def place(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("block", BLOCKS, ids=place)
def test_a_block_has_a_language_and_a_mark_that_is_understood(block: Block) -> None:
    assert block.language in (*CODE, *SHOWN)
    assert not block.mark or block.reason or block.runner
    if block.runner is not None:
        runner = ROOT / block.runner
        assert block.page in runner.read_text(encoding="utf-8"), f"{block.runner} does not name the page"


@pytest.mark.parametrize(("block", "words"), OURS, ids=[f"{block.place}-{words[0]}" for block, words in OURS])
def test_a_command_sets_only_what_there_is(block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] in COMMANDS
    name, overrides = words[0].replace("-", "_"), words[1:]
    if {"--help", "--cfg"} & set(overrides):
        return
    # An interval of a search is as good as one of its ends here.
    overrides = [re.sub(r"(?:tag\(log,)?interval\(([^,]+),[^)]*\)+", r"\1", word) for word in overrides]
    problems, config = composition_problems(name, overrides)
    if name == "train" and config is not None and not any(word.startswith("resume=") for word in overrides):
        check_settings(config, problems)
    # The files that a reader has are not there.
    absent = re.compile("does not exist|no such (file|folder)|cannot import")
    assert [line for line in problems.lines if not absent.search(line)] == []
    assert config is not None
    monkeypatch.setenv("LABEL_PASSWORD", "open sesame")
    if name in TARGETS:
        arguments(config, f"lightning_rlhf.assembly.{TARGETS[name]}")
    elif name in SETTINGS:
        SETTINGS[name](config)
    elif name == "train" and config.search is not None:
        check_targets({"search": OmegaConf.to_container(config.search)})


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "bash"], ids=place)
def test_a_line_for_the_shell_names_what_there_is(block: Block) -> None:
    for line in block.lines:
        if command_of(line) or line.startswith(("lightning-rlhf -sc", *OTHERS)):
            continue
        words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "make":
            assert words[1] in MAKE
        elif words[0] == "pip":
            named = re.findall(r"lightning-rlhf\[([\w,]+)\]", line)
            assert {extra for extras in named for extra in extras.split(",")} <= EXTRAS.keys()
        else:
            assert words[0] in ("python", ".venv/bin/python"), line
            assert words[1] == "-m" or (ROOT / words[1]).is_file(), line


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("json", "yaml")], ids=place)
def test_data_can_be_read(block: Block) -> None:
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    else:
        assert objects(block.text)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=place)
def test_a_program_can_be_read(block: Block) -> None:
    ast.parse(block.text)


def objects(text: str) -> list[dict[str, object]]:
    """The JSON objects that follow each other in a text."""
    found, rest = [], text.strip()
    while rest:
        row, end = json.JSONDecoder().raw_decode(rest)
        found.append(row)
        rest = rest[end:].strip()
    return found


def readable(row: dict[str, object]) -> set[str]:
    """What the reader of data takes from a row."""
    needs = set()
    for need in get_args(Need):
        try:
            needs |= {need} if read_records([row], need).rows else set()
        except UserError:
            continue
    return needs


@pytest.mark.parametrize("block", ROWS, ids=lambda block: block.title)
def test_a_row_of_the_formats_is_read_as_its_section_says(block: Block) -> None:
    page = (ROOT / "docs" / block.page).read_text(encoding="utf-8").splitlines()[: block.line]
    section = next(line for line in reversed(page) if line.startswith("## "))
    wanted = {"for SFT": "completion", "for the reward model and DPO": "pair", "for the reward model": "score"}
    wanted |= {"for PPO": "prompt", "names": ""}
    need = next(need for words, need in wanted.items() if section.endswith(words))
    for row in objects(block.text):
        assert need in readable(row) if need else not readable(row)


def test_there_are_blocks_of_each_kind_and_a_row_of_each_format() -> None:
    assert {block.language for block in BLOCKS} == {*CODE, *SHOWN}
    assert len(OURS) >= 100
    assert len(ROWS) >= 15
    assert len([block for block in BLOCKS if block.is_run]) >= 40
