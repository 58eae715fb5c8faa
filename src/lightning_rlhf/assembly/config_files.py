"""The YAML files of the configuration as a user reads them: groups, their options, settings and comments."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

CONF = Path(str(files("lightning_rlhf.conf")))


@dataclass(frozen=True)
class Setting:
    """A setting at the top of a YAML file."""

    name: str
    default: str
    """The value as the file writes it."""
    comment: str
    """The comment lines right above the setting, joined; empty if there are none."""


def groups() -> list[str]:
    """The names of the groups, such as `model`."""
    return sorted(path.name for path in CONF.iterdir() if path.name != "hydra" and options(path.name))


def options(group: str) -> list[str]:
    """The options of a group, with those in subfolders, such as `gpt2/small`, which Hydra omits from its lists."""
    folder = CONF / group
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    # `base` holds what several options share, and is not an option itself.
    return sorted(name for name in names if name.rpartition("/")[2] != "base")


def command_file(command: str) -> Path:
    """The file with the settings of a command."""
    return CONF / f"{command.replace('-', '_')}.yaml"


def default_options(file: Path) -> dict[str, str]:
    """The option that the defaults list of a file chooses for each group, in the order of the list."""
    return {group: option for entry in _defaults(file) if isinstance(entry, dict) for group, option in entry.items()}


def included(file: Path) -> list[Path]:
    """The files that the defaults list of a file includes as a whole, such as the `base` of a family of models."""
    names = [entry.partition("@")[0] for entry in _defaults(file) if isinstance(entry, str) and entry != "_self_"]
    # A name that begins with a slash counts from the top of the configuration.
    return [CONF / f"{name[1:]}.yaml" if name[0] == "/" else file.parent / f"{name}.yaml" for name in names]


def header(file: Path) -> list[str]:
    """The comment at the top of a file, line by line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def settings(file: Path) -> list[Setting]:
    """The settings of a file, without those of Hydra itself and those that change settings of `train`.

    A setting below another is named with a dot. A mapping in braces is a value.
    """
    text = file.read_text(encoding="utf-8")
    top = yaml.compose(text)
    assert isinstance(top, yaml.MappingNode), f"{file} is not a mapping"
    return list(_settings(top, text, "", nested=not included(file)))


def _settings(node: yaml.MappingNode, text: str, prefix: str, *, nested: bool) -> Iterator[Setting]:
    lines = text.splitlines()
    for key, value in node.value:
        if not prefix and key.value in ("defaults", "hydra"):
            continue
        if isinstance(value, yaml.MappingNode) and not (nested and value.flow_style):
            if nested:
                yield from _settings(value, text, f"{prefix}{key.value}.", nested=True)
            continue
        first = key.start_mark.line
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comment = " ".join(line.strip().removeprefix("#").strip() for line in lines[first : key.start_mark.line])
        default = text[value.start_mark.index : value.end_mark.index]
        yield Setting(prefix + key.value, default, comment)


def groups_of(command: str) -> list[str]:
    """The names of the groups that a command takes, or another command on which it builds."""
    file = command_file(command)
    chosen = {group for each in (file, *included(file)) for group in default_options(each)}
    return [group for group in groups() if group in chosen]


@functools.cache
def sections(command: str) -> frozenset[str]:
    """The keys at the top of what `train`, or a command that builds on it, composes, whatever options are chosen."""
    file = command_file(command)
    found = {key for part in (file, *included(file)) for key in _keys(part)}
    for group in groups_of(command):
        paths = [CONF / group / f"{option}.yaml" for option in options(group)]
        stated = [line.removeprefix("@package ") for path in paths for line in header(path) if "@package " in line]
        package = stated[0] if stated else group
        if package == "_global_":
            found |= {key for path in paths for key in _keys(path)}
        else:
            found.add(package.split(".")[0])
    return frozenset(found)


def _keys(file: Path) -> set[str]:
    return set(yaml.safe_load(file.read_text(encoding="utf-8"))) - {"defaults", "hydra"}


def _defaults(file: Path) -> list[str | dict[str, str]]:
    return yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", [])
