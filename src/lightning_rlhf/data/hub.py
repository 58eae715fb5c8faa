"""Data sets of the library `datasets`: from the hub, or as it has saved them in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_rlhf.data.files import first_line
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

DataSets = dict[str, "Dataset"]
"""The data set of each split; "" is the split of a data set that has none."""


def load_hub(name: str, config_name: str | None) -> DataSets:
    """Loads a Hugging Face data set.

    Raises:
        UserError: If it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        return dict(load_dataset(name, config_name))
    except Exception as error:  # the hub's failures have no common class
        raise UserError(
            f"data '{name}' is no file or folder (looked at {Path(name).absolute()}), "
            f"and as a Hugging Face data set it cannot be loaded: {first_line(error)}"
        ) from error


def is_saved(folder: Path) -> bool:
    """Checks whether a folder was written by `save_to_disk` of `datasets`."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def load_saved(folder: Path) -> DataSets:
    """Loads a folder that `save_to_disk` has written.

    Raises:
        UserError: If it is damaged.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(folder)
    except Exception as error:  # damaged folders raise anything from KeyError to ArrowInvalid
        raise UserError(f"data folder '{folder}' cannot be read: {first_line(error)}") from error
    return dict(data) if isinstance(data, DatasetDict) else {"": data}
