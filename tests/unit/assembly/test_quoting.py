"""Values that Hydra's grammar does not read as they are: named, with the quotes that work."""

import shlex

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.quoting import misread, override

AWKWARD = [
    "a=b.jsonl",
    "a,b.jsonl",
    "data (1).jsonl",
    "f(1).jsonl",
    "{x}.jsonl",
    "x{1}.jsonl",
    "[x",
    "~/data.jsonl",
    "it's.jsonl",
    'say "hi".jsonl',
    r"back\slash.jsonl",
    'quote after a backslash \\" and at the end \\',
    "100% #1 & more!.jsonl",
    " spaces around ",
    "null",
    "1",
    "true",
]


def read(argument: str) -> object:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["data=files", argument]).data.path


@pytest.mark.parametrize("value", AWKWARD)
def test_a_quoted_override_is_read_as_the_text_that_was_meant(value: str) -> None:
    assert read(override("data.path", value)) == value


def test_a_value_that_needs_no_quotes_gets_none() -> None:
    assert override("data.path", "my data/pairs.jsonl") == "data.path=my data/pairs.jsonl"


@pytest.mark.parametrize("value", AWKWARD[:10])
def test_a_message_names_the_override_and_shows_a_line_for_the_shell_that_works(value: str) -> None:
    message = misread(f"data.path={value}", sweeps=False)
    assert message is not None
    assert message.startswith(f"data.path={value}: ")
    # The words that a shell makes of the line after "Write it as", or "Write a text as".
    shown = message.partition(" as ")[2].partition(", or a list")[0]
    (argument,) = shlex.split(shown)
    assert read(argument) == value
    assert ("neither a complete list" in message) == (value[0] in "[{")


def test_commas_are_meant_in_a_sweep_and_not_otherwise() -> None:
    assert misread("sft.module.lr=1,2", sweeps=True) is None
    alone = misread("sft.module.lr=1,2", sweeps=False)
    assert alone is not None
    assert alone.endswith("or a list as 'sft.module.lr=[1,2]'")


@pytest.mark.parametrize("word", ["file.jsonl", "da ta=3", ""])
def test_a_word_that_is_no_setting_is_told_how_to_write_spaces(word: str) -> None:
    message = misread(word, sweeps=False)
    assert message is not None
    assert message.startswith(f"{word}: expected NAME=VALUE; a value with spaces needs quotes")


@pytest.mark.parametrize("text", ["sft.module.lr=1e-3", "~reward.dtype", "+a.b=[1,2]", "model=gpt2/small", "x={a: 1}"])
def test_what_hydra_reads_is_no_mistake(text: str) -> None:
    assert misread(text, sweeps=False) is None
