"""Checks that a checkpoint runs no code when it is read, because a pickle can call any function that it names.

`torch.load` refuses such calls with `weights_only=True`. But DeepSpeed does not set it, and
torch.distributed.checkpoint sets it neither for `.metadata` (filesystem.py, `read_metadata`) nor for values that are
not tensors (default_planner.py, `load_bytes`). The folders of both are therefore read here first, and only what these
libraries write is accepted.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from lightning_rlhf.errors import UserError

_METADATA = {
    "pathlib.PosixPath",
    "torch.Size",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.distributed.checkpoint.metadata.BytesStorageMetadata",
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata.Metadata",
    "torch.distributed.checkpoint.metadata.MetadataIndex",
    "torch.distributed.checkpoint.metadata.StorageMeta",
    "torch.distributed.checkpoint.metadata.TensorProperties",
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata",
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
    "torch.serialization._get_layout",
}
"""The names that torch writes into `.metadata`, besides dtypes."""

_CHECKPOINT = {"state_dict": dict, "pytorch-lightning_version": str}


def check_file(file: Path) -> object:
    """Checks a file that `torch.save` wrote; its tensors stay on the disk.

    Returns:
        What the file holds, with tensors on the meta device.

    Raises:
        UserError: If it names something that could run code, or is damaged.
    """
    with _refusing(file):
        _check_records(file)
        return torch.load(file, map_location="meta", weights_only=True, mmap=True)


def check_checkpoint(file: Path) -> None:
    """Checks a file that Lightning wrote as the checkpoint of a run.

    Raises:
        UserError: If it is another file, names something that could run code, or is damaged.
    """
    content = check_file(file)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), kind) for k, kind in _CHECKPOINT.items()):
        raise UserError(
            f"checkpoint={file}: not the checkpoint of a run, which has {' and '.join(_CHECKPOINT)}: name "
            "checkpoints/last.ckpt in the folder of a run"
        )


def check_distributed(folder: Path) -> None:
    """Checks a folder of torch.distributed.checkpoint.

    Raises:
        UserError: If it names something that could run code, or is damaged.
    """
    for file in folder.glob("*.metadata"):
        with _refusing(file), file.open("rb") as opened:
            metadata = _Metadata(opened).load()
            kinds = metadata.state_dict_metadata
            for index, place in metadata.storage_data.items():
                if isinstance(kinds[index.fqn], BytesStorageMetadata):
                    with (folder / place.relative_path).open("rb") as values:
                        values.seek(place.offset)
                        torch.load(BytesIO(values.read(place.length)), weights_only=True)


def check_deepspeed(folder: Path) -> None:
    """Checks the files of DeepSpeed's engine.

    Raises:
        UserError: If a file names something that could run code, or is damaged.
    """
    with deepspeed_classes():
        for file in folder.rglob("*.pt"):
            check_file(file)


@contextmanager
def deepspeed_classes() -> Iterator[None]:
    """Context in which `torch.load` accepts the classes of DeepSpeed that its engine saves."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
        yield


def _check_records(file: Path) -> None:
    """Compares the records of a file with their checksums (CRC-32), which `torch.save` writes and torch never reads."""
    with zipfile.ZipFile(file) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its record {damaged} does not match")


class _Metadata(pickle.Unpickler):
    """Reads `.metadata`."""

    def find_class(self, module: str, name: str) -> object:
        """Returns the object of an accepted name."""
        if f"{module}.{name}" in _METADATA or (module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which torch does not write there")


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Turns any error into one message, because reading an arbitrary pickle can fail in any way."""
    try:
        yield
    except Exception as error:
        # The first lines of torch's message say how to read the file regardless.
        told = re.search("WeightsUnpickler error: ([^\n]+?)(?:[.] |\n|$)", str(error))
        reason = told[1].strip() if told else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"checkpoint={file}: not read, since it is damaged or could run code: {reason}") from error
