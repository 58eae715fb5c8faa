"""The four roles of PPO: actor, critic, reference and reward.

The algorithm talks to them through `Roles` alone, so that four separate nets, or one backbone that plays them all,
are two ways of filling the same interface.

Shapes: B rows, R response tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.forward import response_logits
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.ops.logprobs import token_entropy, token_logprobs


class TokenStats(NamedTuple):
    """Of each response token, both (B, R), in nats."""

    logprobs: Tensor
    entropy: Tensor


class Roles(Protocol):
    """What PPO asks of its nets. Log-probs are those of the sampling distribution: logits / temperature."""

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy_grad: bool) -> TokenStats:
        """Log-probs and entropies under the actor; the one scorer for old and new log-probs."""

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """(B, R) log-probs under the reference."""

    def values(self, sequences: Sequences) -> Tensor:
        """(B, R) of the critic, before each response token."""

    def scores(self, sequences: Sequences) -> Tensor | None:
        """(B,) of the reward model, at the last token; None if the reward is not a net."""

    def generator(self) -> PreTrainedModel:
        """The net that samples."""

    def trainable(self) -> dict[str, nn.Module]:
        """The nets to update, by role."""

    def frozen(self) -> tuple[str, ...]:
        """Names of the submodules that never change: checkpoints leave them out."""


class SeparateRoles(nn.Module):
    """Four separate nets."""

    def __init__(
        self,
        *,
        actor: PreTrainedModel,
        reference: PreTrainedModel,
        critic: ScalarModel,
        reward: ScalarModel | None = None,
    ) -> None:
        """Freezes the reference and the reward model.

        Raises:
            ValueError: If the actor is its own reference, or the critic the reward model.
        """
        super().__init__()
        if actor is reference:
            raise ValueError("actor and reference are the same object: the KL would always be 0; pass a copy")
        if critic is reward:
            raise ValueError("critic and reward are the same object: one is trained, the other is not; pass a copy")
        self.actor, self.critic, self.reference, self.reward = actor, critic, reference, reward
        for name in self.frozen():
            self.get_submodule(name).requires_grad_(False).eval()

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy_grad: bool = False) -> TokenStats:
        """See `Roles`."""
        logits = response_logits(self.actor, sequences) / temperature
        with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
            entropy = token_entropy(logits)
        return TokenStats(token_logprobs(logits, sequences.responses), entropy)

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        return token_logprobs(response_logits(self.reference, sequences) / temperature, sequences.responses)

    def values(self, sequences: Sequences) -> Tensor:
        """See `Roles`."""
        return self.critic.values(sequences)

    def scores(self, sequences: Sequences) -> Tensor | None:
        """See `Roles`."""
        return None if self.reward is None else self.reward.scores(sequences.input_ids, sequences.attention_mask)

    def generator(self) -> PreTrainedModel:
        """See `Roles`."""
        return self.actor

    def trainable(self) -> dict[str, nn.Module]:
        """See `Roles`."""
        return {"actor": self.actor, "critic": self.critic}

    def frozen(self) -> tuple[str, ...]:
        """See `Roles`."""
        return ("reference",) if self.reward is None else ("reference", "reward")


Net = nn.Module | Callable[[], nn.Module]
"""A net, or a function that builds it: sharded strategies want to be there when it is built."""


def build(net: Net) -> Any:
    """The net itself, or what its function returns; in training mode, which transformers leaves when it loads."""
    return (net if isinstance(net, nn.Module) else net()).train()
