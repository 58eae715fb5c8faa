"""Calls transformers' `from_pretrained`, and says in one line what went wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from lightning_rlhf.errors import UserError
from lightning_rlhf.models.gguf import from_gguf
from lightning_rlhf.models.meta import is_meta_folder, open_checkpoint
from lightning_rlhf.models.meta_convert import converted
from lightning_rlhf.models.places import Place, find_place, hint
from lightning_rlhf.strategies.loading import loading


def load_pretrained(auto: Any, where: str, name: str, **kwargs: Any) -> Any:
    """Calls `from_pretrained`, and turns what transformers says of a wrong name into one line."""
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
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        missing = "not a model folder, and not to be had from the hub" if place.gguf_file is None else "cannot be read"
        raise UserError(f"{name}={where}: {missing}: {reason}{hint(where)}") from error


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
