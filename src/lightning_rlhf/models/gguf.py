"""Reads GGUF files by transformers; such a file holds weights, configuration and tokenizer, usually in few bits.

The weights become plain weights of the requested dtype, and are trained and exported like any others.
"""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from lightning_rlhf.models.locations import Place


def from_gguf(auto: Any, place: Place, **kwargs: object) -> Any:
    """Returns the result of `from_pretrained` for a GGUF file.

    Args:
        auto: An auto class of transformers for a configuration, a tokenizer or a model.
        place: The file.
        kwargs: Arguments of `from_pretrained`. A quantization is ignored; the caller applies it afterwards.
    """
    folder, file = place.where, str(place.gguf_file)
    if auto is AutoConfig:
        return deepcopy(_config(folder, file, (Path(folder) / file).stat().st_mtime_ns))
    if auto is AutoTokenizer:
        return auto.from_pretrained(folder, gguf_file=file, **kwargs)
    # Newer releases would keep weights packed if they have kernels for that, and could not save them.
    plain = transformers.GgufConfig(dequantize=True) if hasattr(transformers, "GgufConfig") else None
    kwargs["quantization_config"] = plain
    return auto.from_pretrained(folder, gguf_file=file, **kwargs)


@lru_cache(maxsize=1)
def _config(folder: str, file: str, changed: int) -> PretrainedConfig:
    """Caches the configuration, which takes seconds to read and is needed once for each model."""
    return AutoConfig.from_pretrained(folder, gguf_file=file)
