"""What `lightning-rlhf --help` and `lightning-rlhf COMMAND --help` print, from the comments of the configuration files.

Hydra's own help lists all groups for every command, and omits the comments.
"""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning_rlhf.assembly.config_files import (
    CONF,
    command_file,
    default_options,
    groups,
    header,
    included,
    options,
    settings,
)
from lightning_rlhf.errors import UserError

_PACKAGES = ("torch", "lightning", "transformers", "hydra-core")


def versions() -> str:
    """This package's version and those of the libraries that a bug report should name; imports none of them."""
    return "\n".join(f"{name} {_version(name)}" for name in ("lightning-rlhf", *_PACKAGES))


def overview(commands: Sequence[str]) -> str:
    """All commands, each with the first line of its file."""
    lines = ["usage: lightning-rlhf COMMAND [OVERRIDES…]", ""]
    width = max(map(len, commands)) + 1
    for name in commands:
        lines += _wrapped(header(command_file(name))[0], f"  {name:<{width}} ", " " * (width + 3))
    lines.append("")
    for line in (
        "lightning-rlhf COMMAND --help shows the settings of a command, with examples.",
        "lightning-rlhf --version shows the versions of this package and of its libraries.",
        'eval "$(lightning-rlhf -sc install=bash)" makes the Tab key complete words; also zsh and fish.',
    ):
        lines += _wrapped(line)
    return "\n".join(lines)


def of_command(command: str, overrides: Sequence[str]) -> str:
    """What a command does and can be told; or what the options mean that the overrides choose, if they choose any.

    Raises:
        UserError: If a group has no such option.
    """
    chosen = [override.lstrip("+").partition("=") for override in overrides]
    files = [_option_file(group, option) for group, _, option in chosen if group in groups()]
    return "\n".join(_of_options(files) if files else _of_command(command))


def _of_command(command: str) -> Iterator[str]:
    file = command_file(command)
    own, chosen = settings(file), _chosen_groups(file)
    yield f"usage: lightning-rlhf {command} " + ("[GROUP=OPTION…] " if chosen else "") + "[SETTING=VALUE…]"
    yield ""
    what, _, examples = "\n".join(header(file)).partition("\nExamples:\n")
    first, _, more = what.partition("\n")
    yield from _wrapped(first)
    yield from _wrapped(more)
    yield "\nExamples:"
    for example in examples.replace("\\\n", "").splitlines():
        yield " \\\n".join(_wrapped(example, "  ", "    ", room=len(" \\")))
    if own:
        yield "\nSettings, with their defaults (??? has none and must be given):"
    for setting in own:
        yield f"  {setting.name}={setting.default}"
        yield from _wrapped(setting.comment, "      ")
    if included(file):
        yield "\nlightning-rlhf train --help shows the groups and settings of train."
    elif chosen:
        yield "\nGroups, with the default first (a folder of options shows their number):"
        for group, default in chosen.items():
            yield from _wrapped(", ".join(_folded(group, default)), f"  {group:<12}", " " * 14)
    if chosen:
        option = "stage=ppo" if "stage" in chosen else "=".join(next(iter(chosen.items())))
        yield ""
        for line in (
            f"lightning-rlhf {command} {option} --help explains the settings of an option, here of {option}.",
            f"lightning-rlhf {command} --cfg job prints all settings. -m runs all combinations of values (seed=1,2).",
        ):
            yield from _wrapped(line)


def _chosen_groups(file: Path) -> dict[str, str]:
    """The groups of a command with the default option of each, including those of the command that it builds on."""
    found = default_options(file)
    for other in included(file):
        found = default_options(other) | found
    return {group: option for group, option in found.items() if group in groups()}


def _folded(group: str, default: str) -> Iterator[str]:
    """The options of a group, with one entry for each folder of options."""
    names = options(group)
    yield default
    yield from (name for name in names if "/" not in name and name != default)
    folders = [name.partition("/")[0] for name in names if "/" in name]
    yield from (f"{folder}/ ({folders.count(folder)})" for folder in dict.fromkeys(folders))


def _option_file(group: str, option: str) -> Path:
    if option not in options(group):
        raise UserError(f"there is no {group}={option}; there are {', '.join(options(group))}")
    return CONF / group / f"{option}.yaml"


def _of_options(files: list[Path]) -> Iterator[str]:
    """The files themselves, since they hold a comment for each setting, and before each the files that it builds on."""
    for file in files:
        yield from _of_options(included(file))
        text = file.read_text(encoding="utf-8").strip()
        group, *option = file.relative_to(CONF).with_suffix("").parts
        yield f"----- {group}={'/'.join(option)}"
        yield text + "\n"


def _wrapped(text: str, first: str = "", others: str | None = None, room: int = 0) -> list[str]:
    """The lines of a text in the width of the terminal, of which `room` columns stay free."""
    width = min(120, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        " ".join(text.split()),
        width - room,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
