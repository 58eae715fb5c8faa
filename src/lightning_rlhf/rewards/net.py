"""Scores from a reward model, which reads the ids that the actor wrote, or their text if its own ids differ.

Shapes: B rows, R response tokens.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.formats import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.ops.rewards import last_token_index


class RowScorer(Protocol):
    """A reward model: a `Scalar`, or a module of the user's."""

    @property
    def hf_config(self) -> object:
        """A configuration that may name `max_position_embeddings`; None if there is none."""

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Computes (B,) scores in fp32 of (B, T) ids, each at the last token of the mask."""


class NetReward(nn.Module):
    """A reward model with the tokenizer and the chat template of the actor."""

    net: RowScorer

    def __init__(self, net: RowScorer) -> None:
        """Stores the trained model."""
        super().__init__()
        self.net = net

    def forward(self, answers: Answers) -> Scores:
        """Scores the ids of the actor, each row at its last real token."""
        return Scores(self.net.scores(answers.sequences.input_ids, answers.sequences.attention_mask), {})


class TextNetReward(nn.Module):
    """A reward model with its own tokenizer or chat template, with which it renders the text of the answers."""

    net: RowScorer

    def __init__(self, net: RowScorer, renderer: Renderer, stop_ids: Sequence[int]) -> None:
        """Stores the trained model.

        Args:
            net: The reward model.
            renderer: The renderer with the tokenizer and the chat template of its training.
            stop_ids: Token ids, any of which ends an answer of the actor.
        """
        super().__init__()
        self.net, self.renderer, self.stop_ids = net, renderer, stop_ids

    def forward(self, answers: Answers) -> Scores:
        """Scores the texts; the column `messages` contains the conversations before the answers."""
        conversations = [
            [*row["messages"], Message(role="assistant", content=response)]
            for row, response in zip(answers.columns, answers.responses, strict=True)
        ]
        scores = self.score(conversations, ended(answers.sequences, self.stop_ids))
        return Scores(scores.to(answers.sequences.input_ids.device), {})

    def score(self, conversations: Sequence[Sequence[Message]], finished: Sequence[bool]) -> Tensor:
        """Scores whole conversations, on the device of the model.

        Args:
            conversations: B conversations that end with the answer.
            finished: B values: True if the answer is complete, False if it was cut off at a length limit.

        Returns:
            (B,) scores in fp32.

        Raises:
            UserError: If the template refuses a conversation, or a conversation is longer than the model can read.
        """
        ids, mask = pad([self._ids(*row) for row in zip(conversations, finished, strict=True)])
        limit = getattr(self.net.hf_config, "max_position_embeddings", None)
        if limit is not None and ids.shape[1] > limit:
            raise UserError(
                f"a conversation has {ids.shape[1]} tokens for the reward model, which reads at most {limit}: set "
                "shorter limits for prompts and responses"
            )
        device = device_of(self)
        return self.net.scores(ids.to(device), mask.to(device))

    def _ids(self, conversation: Sequence[Message], finished: bool) -> list[int]:
        """Returns the ids up to the token at which the score is read, which in training was the stop token.

        An answer that was cut off has no stop token, but the renderer adds one. It has to be removed: otherwise the
        fragment would be judged as if the actor had ended it deliberately, and would get another score than from a
        reward model that reads the actor's ids.
        """
        ids = cut_at_end(self.renderer.conversation(conversation, loss_on="last")).ids
        return ids if finished else ids[:-1]


def device_of(reward: NetReward | TextNetReward) -> torch.device:
    """Returns the device of a reward model; a model without weights computes on the CPU."""
    return next((weight.device for weight in reward.parameters()), torch.device("cpu"))


def ended(sequences: Sequences, stop_ids: Sequence[int]) -> list[bool]:
    """Returns for each row whether its response ends with a stop token rather than at the length limit."""
    last = sequences.responses.gather(1, last_token_index(sequences.response_mask)[:, None])[:, 0]
    return torch.isin(last, torch.tensor(stop_ids, device=last.device)).tolist()
