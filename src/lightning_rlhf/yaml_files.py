"""Reads YAML files that may come from anybody."""

from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.errors import UserError

MOST_NODES = 1_000_000
"""Values of a file, with those that aliases repeat. The configuration of a run has a thousand."""


def read_yaml(file: Path) -> DictConfig | ListConfig:
    """Reads a YAML file without running anything. Do not resolve its interpolations.

    Raises:
        UserError: If it is not YAML, or its aliases make it too large.
    """
    check_aliases(file)
    try:
        return OmegaConf.load(file)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from error


def check_aliases(file: Path) -> None:
    """Checks that the aliases of a file do not repeat each other until no memory holds them ("billion laughs").

    A file that is not YAML passes: whoever reads it says so.

    Raises:
        UserError: If they do.
    """
    try:
        text = file.read_text(encoding="utf-8")
        size = _size(text) if "*" in text else 0
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError):
        return
    if size > MOST_NODES:
        raise UserError(f"{file}: its aliases repeat more than {MOST_NODES:,} values")


def _size(text: str) -> int:
    """Number of values of a YAML text, in which each alias counts as what it stands for."""
    sizes: dict[str, int] = {}
    # The anchors and sizes of the collections around a value, the outermost first.
    around: list[list[str | int]] = [["", 0]]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        anchor, size = getattr(event, "anchor", None) or "", 1
        if isinstance(event, yaml.CollectionStartEvent):
            around.append([anchor, 1])
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            name, count = around.pop()
            anchor, size = str(name), int(count)
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = "", sizes.get(str(event.anchor), 0)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor:
            sizes[anchor] = size
        around[-1][1] = int(around[-1][1]) + size
    return int(around[0][1])
