"""The precision in which a model holds trained weights, and in which an export holds them.

A step of Adam is about as large as the learning rate. bfloat16 has three digits, so adding less than 6e-5 does not
change a weight of 0.02: at the usual learning rates, an optimizer would change few of such weights.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.distributed.loading import divided_in_loading
from lightning_rlhf.models.adapters.active import adapter_layers

_SIXTEEN = (torch.bfloat16, torch.float16)
_MARK = "exported_dtype"


def hold_in_fp32(*nets: nn.Module) -> None:
    """Casts the weights of models in 16 bits to fp32, and stores their dtype for exports.

    This includes frozen weights, because layers of different dtypes do not work together. Models with adapters are not
    cast, because their adapters are in fp32 already. Nor are weights that were divided as they were read; see
    `divided_in_loading`.

    Args:
        *nets: Hugging Face models, or `ScalarModel`s.
    """
    for net in nets:
        if adapter_layers(net):
            continue
        hf_net = net if isinstance(net, PreTrainedModel) else net.get_submodule("net")
        assert isinstance(hf_net, PreTrainedModel)
        export_in(hf_net, hf_net.dtype)
        for weight in net.parameters():
            if weight.dtype in _SIXTEEN and not divided_in_loading(weight):
                weight.data = weight.data.float()


def export_in(net: PreTrainedModel, dtype: torch.dtype) -> None:
    """Makes exports of a model that trains in fp32 be rounded to a dtype, if it has 16 bits."""
    if dtype in _SIXTEEN:
        setattr(net, _MARK, dtype)


def marked_dtype(net: PreTrainedModel) -> torch.dtype | None:
    """Returns the dtype to which exports of a model are rounded, if `export_in` has set one."""
    return getattr(net, _MARK, None)


def exported_dtype(net: PreTrainedModel) -> torch.dtype:
    """Returns the dtype of the weights in an export of a model."""
    return marked_dtype(net) or net.dtype


def as_exported(net: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rounds weights and buffers of a model as its export does."""
    dtype = marked_dtype(net)
    if dtype is None:
        return weights
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
