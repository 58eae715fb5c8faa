"""Scores by a reward model: on the ids that the actor wrote, or on the text if it reads other ids.

Shapes: B rows, R response tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.formats import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.scalar import Scalar
from lightning_rlhf.ops.rewards import last_token_index


class NetReward(nn.Module):
    """A reward model with the tokenizer and the chat template of the actor."""

    def __init__(self, net: Scalar) -> None:
        """Takes the trained net."""
        super().__init__()
        self.net = net

    def forward(self, answers: Answers) -> Scores:
        """Scores the ids as they are, each row at its last real token."""
        return Scores(self.net.scores(answers.sequences.input_ids, answers.sequences.attention_mask), {})


class TextNetReward(nn.Module):
    """A reward model with a tokenizer or chat template of its own, in which it renders the text of the answers."""

    def __init__(self, net: Scalar, renderer: Renderer, stop_ids: Sequence[int]) -> None:
        """Takes the trained net.

        Args:
            net: The reward model.
            renderer: With the tokenizer and the template that it was trained with.
            stop_ids: Ids that end an answer of the actor.
        """
        super().__init__()
        self.net, self.renderer, self.stop_ids = net, renderer, stop_ids

    def forward(self, answers: Answers) -> Scores:
        """Scores the texts; the conversations before the answers stand in the column `messages`."""
        conversations = [
            [*row["messages"], Message(role="assistant", content=response)]
            for row, response in zip(answers.columns, answers.responses, strict=True)
        ]
        scores = self.score(conversations, ended(answers.sequences, self.stop_ids))
        return Scores(scores.to(answers.sequences.input_ids.device), {})

    def score(self, conversations: Sequence[Sequence[Message]], finished: Sequence[bool]) -> Tensor:
        """Scores whole conversations, on the device of the net.

        Args:
            conversations: B conversations that end with the answer.
            finished: For each, whether the answer is whole; False if it was cut off at a length limit.

        Returns:
            (B,) in fp32.

        Raises:
            UserError: If the template refuses a conversation, or one is longer than the net can read.
        """
        ids, mask = pad([self._ids(*row) for row in zip(conversations, finished, strict=True)])
        limit = getattr(self.net.hf_config, "max_position_embeddings", None)
        if limit is not None and ids.shape[1] > limit:
            raise UserError(
                f"a conversation has {ids.shape[1]} tokens for the reward model, which reads at most {limit}: set "
                "shorter limits for prompts and responses"
            )
        device = self.net.bias.device
        return self.net.scores(ids.to(device), mask.to(device))

    def _ids(self, conversation: Sequence[Message], finished: bool) -> list[int]:
        """Ids up to the token at which the score is read: in training that was the stop token behind the answer.

        An answer that was cut off has none. The renderer puts one there all the same; without taking it off, a torso
        would be judged as if the actor had meant to end there, and differently from a reward model that reads the
        actor's ids.
        """
        ids = cut_at_end(self.renderer.conversation(conversation, loss_on="last")).ids
        return ids if finished else ids[:-1]


def ended(sequences: Sequences, stop_ids: Sequence[int]) -> list[bool]:
    """For each row, whether its response ends with a stop token, and not at the length limit."""
    last = sequences.responses.gather(1, last_token_index(sequences.response_mask)[:, None])[:, 0]
    return torch.isin(last, torch.tensor(stop_ids, device=last.device)).tolist()
