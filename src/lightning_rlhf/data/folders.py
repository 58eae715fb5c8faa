"""The files of a folder, and the splits that they belong to: a folder of one's own, or a snapshot of a hub data set."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lightning_rlhf.data.splits import side_of
from lightning_rlhf.errors import UserError

_TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv")
SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet")
"""The ends of the names of data files."""

# Files that describe a data set of the hub, and hold none of its rows.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
# The names of the hub's files, such as train_prefs-00000-of-00003.parquet.
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}")

Splits = dict[str, list[Path]]
"""The files of each split, in the order of reading; "" is the split of files whose names name none."""


def folder_splits(folder: Path, config_name: str | None) -> tuple[Splits, bool]:
    """Finds the data files of a folder, including those in folders within it.

    The data card of a hub data set (`README.md`) says which files belong to which split. Otherwise the name of a file
    says so, or the name of a folder in which it is.

    Args:
        folder: The folder.
        config_name: The configuration to read, if the data set has several.

    Returns:
        The splits, and whether those for training are parts of one data set, rather than named for a choice.

    Raises:
        UserError: If there are no data files, or there is no such configuration.
    """
    files = sorted(_data_files(folder))
    if not files:
        raise UserError(f"data folder '{folder}' holds no file of a known kind ({', '.join(SUFFIXES)})")
    described = _of_card(folder, config_name)
    if described is not None:
        return described, False
    if config_name is not None:
        files = [file for file in files if config_name in file.relative_to(folder).parts[:-1]]
        if not files:
            raise UserError(f"data.config_name={config_name}: '{folder}' holds no folder '{config_name}' with data")
    found: Splits = {}
    for file in files:
        found.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    return found, not all(_SHARD.match(file.name) for file in files)


def _data_files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        # Names with a dot in front are those of programs: macOS writes ._name beside each file, for example.
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.name.lower().endswith(SUFFIXES) and not hidden and file.name not in _DESCRIPTIONS and not file.is_dir():
            yield file


def _split_of(file: Path) -> str:
    if shard := _SHARD.match(file.name):
        return shard["split"]
    for name in (file.name.partition(".")[0], *reversed(file.parts[:-1])):
        if side_of(name) is not None:
            return name
    return ""


def _of_card(folder: Path, config_name: str | None) -> Splits | None:
    """Reads which files belong to which split from the data card; None if there is no card that says so."""
    configs = {str(one.get("config_name", "default")): one for one in _configs(folder / "README.md")}
    if not configs:
        return None
    defaults = [name for name, one in configs.items() if one.get("default") or name == "default" or len(configs) == 1]
    name = config_name or next(iter(defaults), None)
    if name not in configs:
        asked = f"data.config_name={name}: '{folder}' has no such configuration" if name else f"data folder '{folder}'"
        raise UserError(f"{asked}: choose one with data.config_name: {', '.join(configs)}")
    patterns = configs[name]["data_files"]
    if isinstance(patterns, str) or (patterns and isinstance(patterns[0], str)):
        patterns = [{"split": "train", "path": patterns}]
    found = {str(one["split"]): list(_matching(folder, one["path"])) for one in patterns}
    return {split: files for split, files in found.items() if files} or None


def _configs(card: Path) -> list[dict[str, Any]]:
    try:
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        configs = yaml.safe_load(front)["configs"]
        return [one for one in configs if one.get("data_files")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return []


def _matching(folder: Path, patterns: str | list[str]) -> Iterator[Path]:
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        yield from (file for file in found if file.name.lower().endswith(SUFFIXES))
