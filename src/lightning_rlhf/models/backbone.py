"""A model that serves several roles, and is called as one model."""

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


class Backbone(nn.Module):
    """A causal language model that is called as a whole, for logits or for hidden states.

    Strategies gather the weights of the module that is called. If only the part below the head were called, the weights
    outside the blocks would be missing.
    """

    is_one_net = True
    """Marks the module as one model for `distributed.blocks.models_in`."""

    def __init__(self, net: PreTrainedModel) -> None:
        """Stores the model."""
        super().__init__()
        self.net = net

    def forward(self, *, hidden: bool = False, **arguments: object) -> ModelOutput:
        """Calls the model, or only the part below its head.

        Args:
            hidden: Whether to return hidden states instead of logits.
            **arguments: Arguments of the model's forward.
        """
        return (self.net.base_model if hidden else self.net)(**arguments)
