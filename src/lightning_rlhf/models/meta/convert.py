"""Converts Meta's LLaMA folders to Hugging Face's, weight by weight, so that memory holds one output file at most."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch import Tensor

from lightning_rlhf.checksums import checksums, write_checksums
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.meta.checkpoint import MetaCheckpoint, open_checkpoint
from lightning_rlhf.models.model_card import FOLDER, Origin, model_card
from lightning_rlhf.models.usage import Usage
from lightning_rlhf.models.weight_files import SHARD_BYTES, write_weights
from lightning_rlhf.saving import appearing

_ORIGIN = "converted_from.json"


def convert(checkpoint: MetaCheckpoint, folder: Path, *, dtype: torch.dtype | None, max_shard_bytes: int) -> None:
    """Writes a plain Hugging Face folder: weights (safetensors), configuration, generation settings, tokenizer, card.

    The folder appears in one step when everything is written. A conversion that fails or is interrupted leaves nothing
    behind; a conversion that is killed leaves a hidden folder beside `folder`, which the next conversion replaces.

    Args:
        checkpoint: The checkpoint to convert.
        folder: The folder to write. An existing folder, or the target of a link, is replaced.
        dtype: The dtype of the weights written; None keeps the one in the files.
        max_shard_bytes: Largest size of a file of weights, unless a single weight is larger.

    Raises:
        UserError: If the folder cannot be written.
    """
    # What was written is renamed to this path at the end, which works neither for a link nor for a path such as `.`.
    folder = folder.resolve()
    if folder.is_mount():
        raise UserError(f"{folder}: another disk is mounted there, so it cannot be replaced; name a new folder in it")
    try:
        with appearing(folder) as partial:
            partial.mkdir()
            checkpoint.config(dtype).save_pretrained(partial)
            checkpoint.generation_config().save_pretrained(partial)
            checkpoint.tokenizer.build().save_pretrained(partial)
            write_weights(partial, _whole_weights(checkpoint, dtype or checkpoint.dtype), max_shard_bytes)
            write_checksums(partial, checksums(partial, partial.glob("*.safetensors")))
            (partial / _ORIGIN).write_text(_origin(checkpoint))
            (partial / "README.md").write_text(_card(checkpoint), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({error}); make room there, or choose another place") from error


def converted(meta_dir: str, setting: str) -> Path:
    """Returns the converted form of a folder, `huggingface/` in it; one process writes it when it is first needed.

    Args:
        meta_dir: Meta's folder.
        setting: Name of the setting that gives the folder, for messages.

    Raises:
        UserError: If the folder cannot be converted, or the converted form cannot be written.
    """
    checkpoint = open_checkpoint(meta_dir, setting)
    source = Path(meta_dir).expanduser()
    folder = source / "huggingface"
    try:
        with FileLock(source / ".huggingface.lock"):
            if not _is_of(folder, checkpoint):
                convert(checkpoint, folder, dtype=None, max_shard_bytes=SHARD_BYTES)
    except OSError as error:
        raise UserError(
            f"{setting}={meta_dir}: its converted form cannot be written to {folder} ({error.strerror}); choose "
            f"another place for it: lightning-rlhf convert input_dir={meta_dir} output_dir=FOLDER, and train with "
            "model.pretrained=FOLDER instead"
        ) from error
    return folder


def _whole_weights(checkpoint: MetaCheckpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights by Hugging Face's names, and shows a progress bar on a terminal."""
    with _progress(checkpoint.num_parameters * dtype.itemsize) as advance:
        for name, weight in checkpoint.weights.items():
            yield weight.name, checkpoint.whole(name, dtype)
            advance(weight.numel * dtype.itemsize)


def _card(checkpoint: MetaCheckpoint) -> str:
    """The model card. Which licence binds the weights depends on their version, which the files do not name."""
    name = checkpoint.files[0].parent.name
    sentence = f"lightning-rlhf has converted it from `{name}`, a folder with Meta's original weights."
    usage = Usage(reward_model=False)
    return model_card(
        base=None,
        training=[],
        lines=usage.of_model(FOLDER),
        reward_model=False,
        origin=Origin(name, None, sentence),
    )


def _origin(checkpoint: MetaCheckpoint) -> str:
    """Describes the files of a checkpoint, which shows later whether they have been replaced."""
    stats = [(file.name, file.stat()) for file in checkpoint.files]
    return json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats], indent=1) + "\n"


def _is_of(folder: Path, checkpoint: MetaCheckpoint) -> bool:
    """Whether a folder is the converted form of these files."""
    file = folder / _ORIGIN
    return file.is_file() and file.read_text() == _origin(checkpoint)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal, and yields a function that advances it by bytes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("convert LLaMA weights", total=total)
        yield lambda size: progress.advance(task, size)
