"""A net that plays several roles, and is called as one."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


class Backbone(nn.Module):
    """A causal language model that is called as one net, for logits or for hidden states.

    Strategies gather the weights of what is called, so what lies outside the blocks would not be there for a call of
    the part under the head.
    """

    is_one_net = True
    """See `strategies.blocks.nets`."""

    def __init__(self, net: PreTrainedModel) -> None:
        """Takes the net."""
        super().__init__()
        self.net = net

    def forward(self, *, hidden: bool = False, **arguments: object) -> Any:
        """Calls the net, or only what lies under its head.

        Args:
            hidden: Give hidden states instead of logits.
            **arguments: Of the net's forward.
        """
        return (self.net.base_model if hidden else self.net)(**arguments)
