"""Calls transformers' `from_pretrained`, and says in one line what went wrong."""

import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from lightning_rlhf.distributed.loading import loading
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.gguf import from_gguf
from lightning_rlhf.models.locations import Place, find_place, hint
from lightning_rlhf.models.meta.checkpoint import is_meta_folder, open_checkpoint
from lightning_rlhf.models.meta.convert import converted

FAILURES = (OSError, ValueError, ImportError, StrictDataclassError, SafetensorError, UnpicklingError, struct.error)
"""Errors that transformers raises about a folder, a file or a configuration."""

# Buffers that older versions of transformers saved, and compute today: causal masks, rotary frequencies, positions. And
# the value head that TRL saves beside an actor, which no language model reads.
_SPARE = re.compile(r"(^|\.)((self_)?att(n|ention)\.bias|masked_bias|inv_freq|position_ids)$|^v_head\.")
OUTPUTS = ("lm_head.", "embed_out.")
"""Prefixes of the output weights of a language model, for which a scalar model has no place."""


def load_pretrained(auto: Any, where: str, name: str, **kwargs: Any) -> Any:
    """Calls `from_pretrained`, and turns what transformers says of a mistake into one line."""
    place = find_place(where, name)
    if is_meta_folder(Path(place.where)):
        if auto in (AutoConfig, AutoTokenizer):
            checkpoint = open_checkpoint(place.where, name)
            return checkpoint.config() if auto is AutoConfig else checkpoint.tokenizer.build()
        place = Place(str(converted(place.where, name)))
    try:
        if place.gguf_file is not None:
            return from_gguf(auto, place, **kwargs)
        with loading():
            return auto.from_pretrained(place.where, **kwargs)
    except (*FAILURES, RuntimeError) as error:
        # What PyTorch says of a file that was cut; other errors of its kind are no mistake in the files.
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        # A name that is no folder is asked of the hub, and fails so where that has no such thing.
        absent = isinstance(error, OSError) and not Path(place.where).is_dir()
        what = "not a model folder, and not to be had from the hub" if absent else "cannot be loaded"
        attention = in_attention(kwargs.get("attn_implementation"))
        raise UserError(f"{name}={where}{attention}: {what}: {reason(error)}{hint(where)}") from error


def reason(error: BaseException) -> str:
    """Returns the first line of an error, with the following ones if the first only announces them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:6]) if lines[0].endswith(":") else lines[0]


def in_attention(implementation: str | None) -> str:
    """For a message about a net: which kind of attention was asked for, if any was."""
    return "" if implementation is None else f" with model.attn_implementation={implementation}"


def check_whole(name: str, where: str, missing: Sequence[str]) -> None:
    """Checks that all weights of a net were there to load: transformers draws the others at random.

    Args:
        name: The setting that says where the net comes from.
        where: Its value.
        missing: Names of weights that were not there.

    Raises:
        UserError: If there are any.
    """
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{name}={where}: {len(missing)} weights of this architecture are not in its files, and would be random: "
            f"{', '.join(missing[:3])}{more}; it is a net of another kind, or a file is missing"
        )


def check_used(name: str, where: str, unexpected: Iterable[str], spare: tuple[str, ...] = ()) -> None:
    """Checks that the net has a place for all weights in the files: transformers leaves the others out.

    Args:
        name: The setting that says where the net comes from.
        where: Its value.
        unexpected: Names of weights that the net has no place for.
        spare: Beginnings of names that it may do without.

    Raises:
        UserError: If there are others than buffers that are computed.
    """
    unused = sorted(key for key in unexpected if not key.startswith(spare) and not _SPARE.search(key))
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise UserError(
            f"{name}={where}: its configuration has no place for {len(unused)} weights in its files: "
            f"{', '.join(unused[:3])}{more}; config.json is that of a smaller net or of another kind: put weights and "
            "configuration of one model there"
        )


def check_shapes(name: str, where: str, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Checks that all weights in the files fit the net.

    Args:
        name: The setting that says where the net comes from.
        where: Its value.
        mismatched: Names of weights, their shapes in the files and in the net.

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
