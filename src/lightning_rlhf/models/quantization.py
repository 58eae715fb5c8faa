"""Frozen weights in 8 or 4 bits, quantized by bitsandbytes.

Source: Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (2022); "QLoRA: Efficient
Finetuning of Quantized LLMs" (2023), for nf4.
"""

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lightning_rlhf.errors import require
from lightning_rlhf.models.adapters.merging import of_weights

METHODS = ("nf4", "fp4", "int8")


def quantization_config(method: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Returns the configuration with which transformers loads a quantized model.

    Args:
        method: One of `METHODS`.
        dtype: The dtype of computation. Use that of the other weights, because bf16 is 36 times slower on a CPU without
            support for it.

    Raises:
        UserError: If bitsandbytes is not installed.
    """
    require("bitsandbytes", "bitsandbytes", f"model.quantization={method}")
    require("accelerate", "bitsandbytes", f"model.quantization={method}")
    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=method, bnb_4bit_compute_dtype=dtype)


def settle(net: nn.Module) -> None:
    """Prevents 4-bit layers from computing in bf16 when a model is evaluated on a CPU with AVX512.

    bitsandbytes would pack the weights for that in place (nn/modules.py, `Linear4bit.forward`), so rollout and update
    would use different models.
    """
    for module in net.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantized(net: PreTrainedModel, config: BitsAndBytesConfig) -> PreTrainedModel:
    """Returns a quantized copy of a model, because transformers can quantize only while it loads."""
    return of_weights(type(net), net.config, net.state_dict(), dtype=net.dtype, quantization_config=config)
