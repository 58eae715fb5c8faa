"""Which implementation of attention a model gets: flash attention on a GPU where it fits, and otherwise transformers'.

Flash attention computes rows that follow each other in one line, without a mask and without padding. `models.packing`
arranges them so, and says where each of them begins.
Source: Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning" (2023).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
from transformers.utils import is_flash_attn_2_available

FLASH = "flash_attention_2"
FAMILIES = frozenset(
    {
        *("gpt2", "gpt_neox", "opt", "llama", "mistral", "gemma", "gemma2", "gemma3_text"),
        *("qwen2", "qwen3", "cohere", "granite"),
    }
)
"""Families that are tested to tell flash attention where rows begin, so that it keeps packed rows apart."""
_LARGEST_HEAD = 256
"""The largest size of a head that flash attention computes."""
_16_BITS = ("bf16-mixed", "16-mixed", "bf16-true", "16-true")


def flash_is_installed() -> bool:
    """Whether this machine has the package `flash-attn`, and GPUs that it supports: those since Ampere."""
    return is_flash_attn_2_available() and all(
        torch.cuda.get_device_capability(number) >= (8, 0) for number in range(torch.cuda.device_count())
    )


def chosen_attention(config: PreTrainedConfig, precision: str, *, on_cuda: bool, installed: bool) -> str | None:
    """The implementation of attention for a model whose settings name none.

    Args:
        config: The architecture.
        precision: `trainer.precision`; flash attention computes in 16 bits only.
        on_cuda: Whether the model is trained on a GPU.
        installed: See `flash_is_installed`.

    Returns:
        `flash_attention_2`, or None for the choice of transformers, which is `sdpa` if the family has it.
    """
    net: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    settings: Any = config
    head = getattr(config, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    fits = (
        on_cuda
        and installed
        and precision in _16_BITS
        and config.model_type in FAMILIES
        and net is not None
        and bool(net._supports_flash_attn)
        and head <= _LARGEST_HEAD
    )
    return FLASH if fits else None


@contextmanager
def without_flash(net: nn.Module) -> Iterator[None]:
    """Context in which a model with flash attention uses `sdpa`, which takes masks, any dtype and any device.

    The native engine samples so, because flash attention would look for the tokens of each row in every layer of every
    step. No gradients may be recorded within the context, because checkpointed blocks are computed again after it.

    Args:
        net: A model, or a module that contains models.
    """
    configs = (getattr(module, "config", None) for module in net.modules())
    flash = {
        id(config): config
        for config in configs
        if isinstance(config, PreTrainedConfig) and config._attn_implementation == FLASH
    }
    for config in flash.values():
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config in flash.values():
            config._attn_implementation = FLASH
