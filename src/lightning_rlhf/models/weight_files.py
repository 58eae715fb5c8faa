"""Writes weights to safetensors files that transformers reads, as they arrive, so that memory holds one file."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lightning_rlhf.disk import check_room

SHARD_BYTES = 5 * 10**9
"""Largest size of a file of weights, the 5 GB of huggingface_hub (`split_torch_state_dict_into_shards`)."""


def write_weights(folder: Path, weights: Iterable[tuple[str, Tensor]], max_shard_bytes: int = SHARD_BYTES) -> None:
    """Writes `model.safetensors`, or several files with an index if the weights exceed the size of one file.

    Args:
        folder: An existing folder.
        weights: Names and tensors on the CPU, of which up to `max_shard_bytes` are kept until their file is full.
        max_shard_bytes: Largest size of a file, unless a single weight is larger.
    """
    files: list[dict[str, int]] = []
    held: dict[str, Tensor] = {}

    def write() -> None:
        check_room(folder, sum(weight.nbytes for weight in held.values()))
        save_file(held, folder / _unfinished(len(files)), metadata={"format": "pt"})
        files.append({name: weight.nbytes for name, weight in held.items()})
        held.clear()

    for name, weight in weights:
        if held and sum(one.nbytes for one in held.values()) + weight.nbytes > max_shard_bytes:
            write()
        held[name] = weight.contiguous()
    write()
    _name(folder, files)


def _unfinished(number: int) -> str:
    """Returns the name of a file as long as the number of files is unknown."""
    return f"model-{number}.safetensors"


def _name(folder: Path, files: list[dict[str, int]]) -> None:
    """Renames the files to the names that transformers looks for."""
    weight_map: dict[str, str] = {}
    for number, sizes in enumerate(files):
        suffix = f"-{number + 1:05}-of-{len(files):05}" if len(files) > 1 else ""
        (folder / _unfinished(number)).rename(folder / f"model{suffix}.safetensors")
        weight_map |= dict.fromkeys(sizes, f"model{suffix}.safetensors")
    if len(files) > 1:
        total = sum(size for sizes in files for size in sizes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
