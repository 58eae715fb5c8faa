"""In how many digits a net holds the weights that it trains, and in how many an export holds them.

A step of Adam is about as large as the learning rate. bfloat16 has three digits, so that to a weight of 0.02 nothing
below 6e-5 can be added: at the usual rates an optimizer that steps on such weights moves few of them.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_rlhf.distributed.loading import divided_in_loading
from lightning_rlhf.models.adapters.active import adapter_layers

_SIXTEEN = (torch.bfloat16, torch.float16)
_MARK = "exported_dtype"


def hold_in_fp32(*nets: Any) -> None:
    """Casts the weights of nets in 16 bits to fp32, and remembers the dtype for their exports.

    Frozen ones too, since layers of two dtypes do not fit together. Nets with adapters stay as they are: their adapters
    are in fp32 already. So do weights that were divided in loading: see `divided_in_loading`.

    Args:
        *nets: Hugging Face models, or `ScalarModel`s.
    """
    for net in nets:
        if adapter_layers(net):
            continue
        hf_net = net if isinstance(net, PreTrainedModel) else net.net
        export_in(hf_net, hf_net.dtype)
        for weight in net.parameters():
            if weight.dtype in _SIXTEEN and not divided_in_loading(weight):
                weight.data = weight.data.float()


def export_in(net: PreTrainedModel, dtype: torch.dtype) -> None:
    """Has exports of a net that trains in fp32 rounded to 16 bits, if this is a dtype of 16 bits."""
    if dtype in _SIXTEEN:
        setattr(net, _MARK, dtype)


def marked_dtype(net: PreTrainedModel) -> torch.dtype | None:
    """The dtype that exports of a net are rounded to, if `export_in` has named one."""
    return getattr(net, _MARK, None)


def exported_dtype(net: PreTrainedModel) -> torch.dtype:
    """The dtype of the weights that an export of the net holds."""
    return marked_dtype(net) or net.dtype


def as_exported(net: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and buffers of the net that are elsewhere, as its export holds them."""
    dtype = marked_dtype(net)
    if dtype is None:
        return weights
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
