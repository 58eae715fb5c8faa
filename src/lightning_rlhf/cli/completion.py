"""The Tab key: `lightning-rlhf -sc install=SHELL` prints a script for a shell, which asks `-sc query=SHELL`.

These are the flags of Hydra's own completion. Hydra's own does not know the commands of this program, offers files such
as `base` that are not options, and not those that lie in folders, such as `model=gpt2/small`.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import cast

from lightning_rlhf.assembly.config_files import command_file, groups_of, options
from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES

SHELLS = ("bash", "zsh", "fish")
_FLAGS = ("--help", "--version", "--cfg", "--multirun")


def answer(words: Sequence[str], commands: Sequence[str]) -> str:
    """The script for a shell, or the candidates for the word at the end of COMP_LINE, one a line.

    Args:
        words: The arguments of the program: the flag, and `install=SHELL` or `query=SHELL`.
        commands: Names of all commands.

    Raises:
        UserError: If the arguments are others.
    """
    asked, _, shell = words[-1].partition("=")
    if asked not in ("install", "query") or shell not in SHELLS:
        raise UserError(f"-sc {words[-1]}: expected install=SHELL with one of {', '.join(SHELLS)}")
    if asked == "install":
        return files(__package__).joinpath(f"completion.{shell}").read_text(encoding="utf-8")
    return "\n".join(candidates(os.environ.get("COMP_LINE", ""), commands))


def candidates(line: str, commands: Sequence[str]) -> list[str]:
    """What the last word of a command line can become, up to the next point at which several ways part.

    Args:
        line: The line up to the cursor, which begins with the name of the program.
        commands: Names of all commands.
    """
    try:
        words = shlex.split(line)
    except ValueError:
        # The line ends inside quotes.
        words = line.split()
    word = words.pop() if len(words) > 1 and not line[-1].isspace() else ""
    if len(words) < 2:
        return _next((*commands, "--help", "--version"), word)
    if words[1] not in commands:
        return []
    if word.startswith("-"):
        return _next(_FLAGS, word)
    prefix = word[: len(word) - len(word.lstrip("+~"))]
    return [prefix + name for name in _overrides(words[1], words[2:], word.removeprefix(prefix))]


def _overrides(command: str, given: Sequence[str], word: str) -> list[str]:
    own = groups_of(command)
    group, chosen, option = word.partition("=")
    if chosen and group in own:
        return [f"{group}={name}" for name in _next(options(group), option, "/")]
    names = [f"{name}={text}" for name, text in _settings(command, [text for text in given if text[0] != "-"])]
    if chosen:
        return sorted(name for name in names if name.startswith(word) and name != f"{group}=")
    return sorted(
        {
            *_next([f"{name}=" for name in own], word),
            *_next((name.partition("=")[0] + "=" for name in names), word, "."),
        }
    )


def _next(names: Iterable[str], typed: str, separator: str = " ") -> list[str]:
    """The names that continue what is typed, each only up to the next separator."""
    found = set()
    for name in names:
        if name.startswith(typed):
            head, mark, _ = name[len(typed) :].partition(separator)
            found.add(typed + head + mark)
    return sorted(found)


def _settings(command: str, overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each setting of a command, with the texts of the values that are worth offering."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    name = command_file(command).stem
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        try:
            config = compose(name, list(overrides))
        except HydraException:
            # An override that is not finished, or wrong, is no reason to offer nothing.
            config = compose(name)
    # A recipe may have settings for stages that do not run.
    idle = {record.block for record in STAGES.values() if record.name not in config.get("stages", ())}
    plain = cast(dict[str, object], OmegaConf.to_container(config, resolve=False))
    yield from _leaves({key: node for key, node in plain.items() if key not in idle}, "")


def _leaves(node: object, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, dict):
        yield from ((path, text) for text in _values(node))
        return
    for key, child in node.items():
        if not str(key).startswith("_"):
            yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _values(value: object) -> list[str]:
    if isinstance(value, bool):
        return ["false", "true"]
    # A list, an interpolation or a text with spaces would need quotes.
    plain = isinstance(value, int | float) or (isinstance(value, str) and value.replace("/", "").isidentifier())
    return [str(value)] if plain else [""]
