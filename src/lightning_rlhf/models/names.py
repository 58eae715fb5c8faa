"""How the files of a model name other models, and how the folders of exports are named."""

import os
from pathlib import Path


def named_from(where: str, folder: Path) -> str:
    """Names a model in a file of another folder: a hub name as it is, and a folder by its path from the other one.

    Folders that are moved or copied together keep finding each other.

    Args:
        where: Hub name or folder.
        folder: The folder whose file names the model; it need not exist yet.
    """
    return os.path.relpath(Path(where).resolve(), folder.resolve()) if Path(where).is_dir() else where


def found_from(name: str, folder: Path) -> str:
    """Finds what `named_from` has named: a folder if there is one, otherwise the name itself.

    Args:
        name: Hub name, or a path that is absolute or begins at `folder`.
        folder: The folder whose file contains the name.
    """
    path = folder / name
    return str(path.resolve()) if path.is_dir() else name


def adapter_folder(folder: Path) -> Path:
    """Where the adapter of a model goes: `adapter/` beside `model/`, `adapter_ema/` beside `model_ema/`."""
    name = folder.name.replace("model", "adapter")
    return folder.with_name(name if name != folder.name else f"{name}_adapter")
