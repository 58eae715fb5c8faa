"""GGUF files, which hold weights, configuration and tokenizer of a model, mostly in few bits: read by transformers.

The weights become plain ones of the dtype asked for, and are trained and exported as any others.
"""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from lightning_rlhf.models.locations import Place


def from_gguf(auto: Any, place: Place, **kwargs: object) -> Any:
    """What `from_pretrained` gives for a GGUF file.

    Args:
        auto: The class of transformers: of a configuration, a tokenizer, or a net.
        place: The file.
        kwargs: For `from_pretrained`; a quantization is left to be done afterwards.
    """
    folder, file = place.where, str(place.gguf_file)
    if auto is AutoConfig:
        return deepcopy(_config(folder, file, (Path(folder) / file).stat().st_mtime_ns))
    if auto is AutoTokenizer:
        return auto.from_pretrained(folder, gguf_file=file, **kwargs)
    # Newer ones would leave the weights packed where they have kernels for that, and not save them.
    plain = transformers.GgufConfig(dequantize=True) if hasattr(transformers, "GgufConfig") else None
    kwargs["quantization_config"] = plain
    return auto.from_pretrained(folder, gguf_file=file, **kwargs)


@lru_cache(maxsize=1)
def _config(folder: str, file: str, changed: int) -> PretrainedConfig:
    """Found in seconds, and asked for once for each net."""
    return AutoConfig.from_pretrained(folder, gguf_file=file)
