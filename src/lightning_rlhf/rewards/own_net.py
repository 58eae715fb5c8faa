"""Reward models that users bring: any module that scores token ids.

Shapes: B rows, T tokens.
"""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.ops.rewards import last_token_index
from lightning_rlhf.rewards.net import NetReward, TextNetReward


class RewardNet:
    """A reward model of your own.

    Example:
        >>> RewardNet(AutoModelForSequenceClassification.from_pretrained(name), AutoTokenizer.from_pretrained(name))
    """

    def __init__(
        self,
        net: nn.Module | Callable[[], nn.Module],
        tokenizer: PreTrainedTokenizerBase | None = None,
        template: str | None = None,
    ) -> None:
        """Stores the model.

        Args:
            net: A `…ForSequenceClassification` model with one label, or any module that is called as
                `net(input_ids, attention_mask)` with (B, T) int64 ids and a (B, T) bool mask, and that returns (B,) or
                (B, 1) scores, or (B, T) scores at each token, of which the one at the last real token counts. Or a
                function that builds the module, which sharded strategies need.
            tokenizer: The tokenizer of the model. The model then reads the text of conversation and response. None if
                the model reads the ids that the actor wrote.
            template: Chat template of its training: `plain`, `raw`, the path of a file, or Jinja text; None takes the
                tokenizer's.
        """
        self.net, self.tokenizer, self.template = net, tokenizer, template

    def build(self, renderer: Renderer) -> NetReward | TextNetReward:
        """Makes the reward function that PPO calls.

        Args:
            renderer: The renderer of the actor.

        Raises:
            UserError: If the model is no module, or a classifier with several labels.
        """
        net = self.net if isinstance(self.net, nn.Module) else self.net()
        if not isinstance(net, nn.Module):
            raise UserError(f"RewardNet(net=…) built {net!r:.80}, which is not a torch.nn.Module")
        scorer = _classifier(net) if isinstance(net, PreTrainedModel) else IdScorer(net)
        if self.tokenizer is None:
            return NetReward(scorer)
        return TextNetReward(scorer, Renderer(self.tokenizer, self.template), renderer.stop_ids)


class IdScorer(nn.Module):
    """A module that scores token ids, with the interface of a reward model."""

    def __init__(self, net: nn.Module) -> None:
        """Stores the module; see `RewardNet`."""
        super().__init__()
        self.net = net
        self.hf_config = getattr(net, "config", None)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Computes the score of each row.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T) bool.

        Returns:
            (B,) in fp32.

        Raises:
            UserError: If the module returns something else than scores.
        """
        found = self.net(input_ids, attention_mask)
        (rows, columns), shape = input_ids.shape, tuple(getattr(found, "shape", ()))
        if not isinstance(found, Tensor) or shape not in ((rows,), (rows, 1), (rows, columns), (rows, columns, 1)):
            raise UserError(
                f"{type(self.net).__name__} returned {type(found).__name__}{f' of shape {shape}' if shape else ''} for "
                f"ids of shape {(rows, columns)}: expected ({rows},) scores, or ({rows}, {columns}) scores of tokens"
            )
        found = found.float().view(rows, -1)
        if found.shape[1] == 1:
            return found[:, 0]
        return found.gather(1, last_token_index(attention_mask)[:, None])[:, 0]


def _classifier(net: PreTrainedModel) -> ScalarModel:
    labels = net.config.num_labels
    if labels != 1 or not hasattr(net, "base_model") or not type(net).__name__.endswith("ForSequenceClassification"):
        raise UserError(
            f"RewardNet(net=…): {type(net).__name__} with num_labels={labels} is not a reward model: expected a "
            "…ForSequenceClassification with num_labels=1; wrap the model in a module whose forward(input_ids, "
            "attention_mask) returns one score for each row"
        )
    return ScalarModel(net)
