"""Calls transformers' `from_pretrained`, and turns its errors into one line each."""

import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from lightning_rlhf.checksums import check_checksums
from lightning_rlhf.distributed.loading import loading
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.gguf import from_gguf
from lightning_rlhf.models.locations import Place, check_object, check_whole_model, find_place, hint
from lightning_rlhf.models.meta.checkpoint import is_meta_folder, open_checkpoint
from lightning_rlhf.models.meta.convert import converted

FAILURES = (OSError, ValueError, ImportError, StrictDataclassError, SafetensorError, UnpicklingError, struct.error)
"""The errors that transformers raises about a folder, a file or a configuration."""

# Buffers that older versions of transformers saved and current versions compute: causal masks, rotary frequencies and
# positions. Also the value head that TRL saves with an actor, which no language model reads.
_SPARE = re.compile(r"(^|\.)((self_)?att(n|ention)\.bias|masked_bias|inv_freq|position_ids)$|^v_head\.")
# transformers takes for granted that these hold JSON objects.
_DESCRIPTIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json")
OUTPUTS = ("lm_head.", "embed_out.")
"""Prefixes of the output weights of a language model, which a scalar model does not have."""


def load_pretrained(auto: Any, where: str, name: str, **kwargs: Any) -> Any:
    """Calls `from_pretrained`, and turns the message of transformers about a mistake into one line."""
    place = find_place(where, name)
    # The folder of an adapter may have a tokenizer.
    if name not in ("model.tokenizer", "model.config_tokenizer"):
        check_whole_model(where, name)
    if is_meta_folder(Path(place.where)):
        if auto in (AutoConfig, AutoTokenizer):
            checkpoint = open_checkpoint(place.where, name)
            return checkpoint.config() if auto is AutoConfig else checkpoint.tokenizer.build()
        place = Place(str(converted(place.where, name)))
    for file in _DESCRIPTIONS:
        check_object(Path(place.where) / file, f"{name}={where}")
    if auto not in (AutoConfig, AutoTokenizer):
        check_checksums(Path(place.where), f"{name}={where}")
    try:
        if place.gguf_file is not None:
            return from_gguf(auto, place, **kwargs)
        with loading():
            return auto.from_pretrained(place.where, **kwargs)
    except (*FAILURES, RuntimeError) as error:
        # PyTorch raises this RuntimeError about a truncated file; other RuntimeErrors do not come from the files.
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        # If a name is not a folder, transformers asks the hub, and raises an OSError if the hub does not have it.
        absent = isinstance(error, OSError) and not Path(place.where).is_dir()
        what = "it is not a model folder, and cannot be downloaded from the hub" if absent else "cannot be loaded"
        attention = in_attention(kwargs.get("attn_implementation"))
        raise UserError(f"{name}={where}{attention}: {what}: {reason(error)}{hint(where)}") from error


def reason(error: BaseException) -> str:
    """Returns the first line of an error, with the following ones if the first only announces them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:6]) if lines[0].endswith(":") else lines[0]


def in_attention(implementation: str | None) -> str:
    """Returns the part of a message that names the requested kind of attention, if one was requested."""
    return "" if implementation is None else f" with model.attn_implementation={implementation}"


def check_whole(name: str, where: str, missing: Sequence[str]) -> None:
    """Checks that the files contained all weights of a model; transformers draws missing weights at random.

    Args:
        name: The setting that says where the model comes from.
        where: Its value.
        missing: The names of the missing weights.

    Raises:
        UserError: If there are any.
    """
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{name}={where}: {len(missing)} weights of this architecture are not in its files, and would be random: "
            f"{', '.join(missing[:3])}{more}; it is a model of another kind, or a file is missing"
        )


def check_used(name: str, where: str, unexpected: Iterable[str], spare: tuple[str, ...] = ()) -> None:
    """Checks that the model uses all weights in the files; transformers skips the others.

    Args:
        name: The setting that says where the model comes from.
        where: Its value.
        unexpected: The names of weights in the files that the model does not have.
        spare: Prefixes of the names that may be skipped.

    Raises:
        UserError: If there are other such weights, except buffers that are computed.
    """
    unused = sorted(key for key in unexpected if not key.startswith(spare) and not _SPARE.search(key))
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise UserError(
            f"{name}={where}: its configuration has no place for {len(unused)} weights in its files: "
            f"{', '.join(unused[:3])}{more}; config.json is that of a smaller model or of another kind: put weights "
            "and configuration of one model there"
        )


def check_shapes(name: str, where: str, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Checks that all weights in the files have the shapes of the model.

    Args:
        name: The setting that says where the model comes from.
        where: Its value.
        mismatched: The names of weights, their shapes in the files and in the model.

    Raises:
        UserError: If there are any.
    """
    wrong = sorted((key, tuple(there), tuple(here)) for key, there, here in mismatched)
    if wrong:
        key, there, here = wrong[0]
        raise UserError(
            f"{name}={where}: {len(wrong)} weights in its files do not fit its configuration: {key} has the shape "
            f"{there}, and should have {here}; put weights and configuration of one model there"
        )
