"""What an export tells about the training behind it, as entries of its manifest that a later export passes on."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lightning_rlhf.models.names import found_from

MANIFEST = "lightning_rlhf.json"


class Measured(TypedDict):
    """A metric on held-out data."""

    name: str
    label: str
    value: float | None
    """The number; None if it is not finite."""
    shown: str
    """The number for people."""
    before: str | None
    """The number of the model before training, for people, if it was measured."""
    note: str
    """What is measured, and by which baseline."""


class DataUsed(TypedDict):
    """Data that a stage has read."""

    use: str
    """`train` or `held out`."""
    name: str
    """Hub name, name in a package, or the name of a file or folder without the path to it."""
    hub: bool
    """Whether it is the name of a Hugging Face data set."""
    rows: NotRequired[int]
    """The number of rows, if it is known."""


class TrainingRecord(TypedDict):
    """The training of one stage."""

    stage: str
    base_model: str | None
    """Hub name or the name of a folder; None if the weights began at random."""
    data: list[DataUsed]
    settings: dict[str, Any]
    metrics: list[Measured]


def records_of(folders: Iterable[str | Path]) -> list[TrainingRecord]:
    """Reads the records of the stages behind some models, the oldest first and each once.

    Args:
        folders: Folders of exports. Hub names, and folders that contain no records, are skipped.
    """
    found: list[TrainingRecord] = []
    for folder in folders:
        told = manifest_of(folder).get("training")
        found += [one for one in told if _is_record(one) and one not in found] if isinstance(told, list) else []
    return found


def _is_record(told: object) -> bool:
    """Whether a manifest, which need not be trusted, has told a record that a card can show."""
    if not isinstance(told, dict) or not TrainingRecord.__required_keys__ <= told.keys():
        return False
    lists = {"data": DataUsed.__required_keys__, "metrics": Measured.__required_keys__}
    return isinstance(told["settings"], dict) and all(
        isinstance(told[name], list) and all(isinstance(one, dict) and keys <= one.keys() for one in told[name])
        for name, keys in lists.items()
    )


def hub_model(base: str | None) -> str | None:
    """Finds the model on the hub with which the training of a model began.

    Args:
        base: Hub name or folder of a base model.

    Returns:
        The hub name; None if the training began with random weights or with a folder that names no model.
    """
    for name in _chain(base):
        if not Path(name).exists() and name.count("/") <= 1 and not name.startswith((".", "/", "~")):
            return name
    return None


def _chain(base: str | None) -> Iterator[str]:
    seen: set[str] = set()
    while base is not None and base not in seen:
        seen.add(base)
        yield base
        named = manifest_of(base).get("base_model")
        base = found_from(named, Path(base)) if isinstance(named, str) else None


def manifest_of(folder: str | Path) -> dict[str, Any]:
    """Reads the manifest of an export, which need not be there, nor be one."""
    try:
        manifest = json.loads((Path(folder).expanduser() / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
