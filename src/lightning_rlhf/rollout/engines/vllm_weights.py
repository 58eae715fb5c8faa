"""The weights of the trained model under the names that vLLM reads: those of a Hugging Face checkpoint.

An adapter is merged into the weights that it adapts. vLLM could also take the adapter alone, which is less to send, but
it would then need a second name for each policy, layers of its own for the adapter, and a rank and target modules that
it supports; and on a shared backbone, where several roles have adapters, the merged weights are those of the actor
without any further agreement. Merged weights are therefore right for all roles and kinds of adapters.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.merging import is_plain, is_quantized, merged_weights
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.exported_weights import in_files, skeleton
from lightning_rlhf.models.rebuilding import rebuilt

_OF_BACKBONE = "net."


def hf_net(net: nn.Module) -> PreTrainedModel:
    """Returns the Hugging Face model behind the model that samples."""
    found: Any = net.net if isinstance(net, Backbone) else net
    return found


def sent_weights(net: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights that vLLM needs, each tied weight once.

    Args:
        net: The model that samples, which may have adapters or quantized layers.
        weights: Its whole weights and buffers; see `RolloutEngine.update_weights`. They are read to their end.

    Yields:
        Names as in the files of a checkpoint, and copies of the plain weights.
    """
    model, prefix = hf_net(net), _OF_BACKBONE if isinstance(net, Backbone) else ""
    # vLLM keeps a tensor until its layer is complete, and the stream uses the memory again.
    named = ((name.removeprefix(prefix), weight.detach().clone()) for name, weight in weights)
    if is_quantized(model):
        # Every process holds a quantized model as a whole.
        for _ in named:
            pass
        plain = merged_weights(model)
    elif adapter_layers(model):
        # The layers are merged on the CPU, since the model itself may be divided among processes.
        whole: Any = rebuilt(model, {name: weight.cpu() for name, weight in named})
        plain = merged_weights(whole)
    else:
        assert is_plain(model)
        plain = iter(named)
    yield from in_files(model, skeleton(model, model.dtype), plain)
