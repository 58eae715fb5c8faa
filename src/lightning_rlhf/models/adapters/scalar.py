"""A reward model or a critic that consists of an adapter of a shared model and a head."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lightning_rlhf.models.adapters.active import activated
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.forward import hidden_states
from lightning_rlhf.models.scalar import Scalar, ScalarHead


class AdapterScalar(Scalar):
    """An adapter of a backbone, a linear head on every token, and a bias.

    The backbone is not a submodule, since `SharedRoles` contains it once for all roles.
    """

    def __init__(self, backbone: Backbone, adapter: str, head: Tensor, bias: float) -> None:
        """Stores the parts.

        Args:
            backbone: The backbone that contains the adapter.
            adapter: Name of the adapter.
            head: (1, D) weights of the head, which are copied.
            bias: Bias of the head.
        """
        super().__init__()
        self._backbone, self.adapter = (backbone,), adapter
        self.head = ScalarHead(head.shape[1], 1, bias=False)
        # The head is in fp32 like the adapter, whatever the dtype of the model.
        self.head.weight = nn.Parameter(head.detach().to(torch.float32, copy=True))
        self.bias = nn.Parameter(torch.tensor(bias))

    @property
    def backbone(self) -> Backbone:
        """The backbone that contains the adapter."""
        return self._backbone[0]

    @property
    def called(self) -> tuple[nn.Module, ...]:
        """See `Scalar`."""
        return self, self.backbone

    @property
    def hf_config(self) -> PretrainedConfig:
        """See `Scalar`."""
        return self.backbone.net.config

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Scalar`."""
        with activated(self.backbone, self.adapter):
            return hidden_states(self.backbone, input_ids, attention_mask, hidden=True)
