"""Roles that are an adapter of one net and a head: a reward model, a critic."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lightning_rlhf.models.adapters.active import activated
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.forward import hidden_states
from lightning_rlhf.models.scalar import Scalar, ScalarHead


class AdapterScalar(Scalar):
    """An adapter of a backbone, a linear head on every token, and a bias.

    The backbone is no submodule of it: it has a place of its own among the roles.
    """

    def __init__(self, backbone: Backbone, adapter: str, head: Tensor, bias: float) -> None:
        """Takes the parts.

        Args:
            backbone: Has the adapter.
            adapter: Its name.
            head: (1, D) weights, which are copied.
            bias: Of the head.
        """
        super().__init__()
        self._backbone, self.adapter = (backbone,), adapter
        self.head = ScalarHead(head.shape[1], 1, bias=False)
        # In fp32 like the adapter, whatever the net is in.
        self.head.weight = nn.Parameter(head.detach().to(torch.float32, copy=True))
        self.bias = nn.Parameter(torch.tensor(bias))

    @property
    def backbone(self) -> Backbone:
        """The net that it is a part of."""
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
