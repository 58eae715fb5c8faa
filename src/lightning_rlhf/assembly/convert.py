"""Converts Meta's original LLaMA weights to a plain Hugging Face folder."""

import time
from pathlib import Path

from lightning_rlhf.errors import UserError


def convert(input_dir: str, output_dir: str, dtype: str | None, max_shard_size: str) -> Path:
    """Converts a checkpoint.

    Args:
        input_dir: Folder of Meta's checkpoint.
        output_dir: Folder in which the model is written.
        dtype: The dtype of the written weights; None keeps that of the checkpoint.
        max_shard_size: Size of the largest file of weights, such as 5GB.

    Returns:
        The folder of the model, which also contains `result.json`.

    Raises:
        UserError: If the checkpoint is incomplete, or the folder of the model is not empty.
    """
    from lightning_rlhf.assembly.library_messages import silence_libraries
    from lightning_rlhf.callbacks.run_record import versions
    from lightning_rlhf.models.meta import convert as meta_convert
    from lightning_rlhf.models.meta.checkpoint import open_checkpoint
    from lightning_rlhf.models.source import DTYPES
    from lightning_rlhf.saving import write_json
    from lightning_rlhf.sizes import parse_bytes

    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype={dtype}: expected one of {', '.join(DTYPES)}, or null")
    size = parse_bytes(max_shard_size, "max_shard_size")
    folder, place = Path(output_dir).expanduser(), Path(output_dir).expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"output_dir={output_dir}: it is not empty; choose a folder that is new or empty")
    silence_libraries()
    start = time.perf_counter()
    checkpoint = open_checkpoint(input_dir, "input_dir")
    meta_convert.convert(checkpoint, place, dtype=None if dtype is None else DTYPES[dtype], max_shard_bytes=size)
    record = {
        "stage": "convert",
        "status": "finished",
        "metrics": {"parameters": checkpoint.num_parameters},
        "model_dir": str(folder),
        "seconds": round(time.perf_counter() - start, 3),
        "versions": versions(),
    }
    write_json(place / "result.json", record)
    return folder
