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

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.merging import is_plain, merged_weights
from lightning_rlhf.models.forward import label_logprobs, response_logits
from lightning_rlhf.models.precision import hold_in_fp32
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.ops.kl import exact_kl
from lightning_rlhf.ops.logprobs import token_entropy, token_logprobs


class TokenStats(NamedTuple):
    """Of each response token, both (B, R), in nats."""

    logprobs: Tensor
    entropy: Tensor


def token_stats(logits: Tensor, sequences: Sequences, entropy_grad: bool) -> TokenStats:
    """Of the response tokens, by (B, R, V) logits over the temperature."""
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        entropy = token_entropy(logits)
    return TokenStats(token_logprobs(logits, sequences.responses), entropy)


class Roles(Protocol):
    """What PPO asks of its nets. Log-probs are those of the sampling distribution: logits / temperature."""

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy_grad: bool) -> TokenStats:
        """Log-probs and entropies under the actor; the one scorer for old and new log-probs."""

    def label_logprobs(self, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
        """(N,) log-probs under the actor of the tokens to imitate, at temperature 1."""

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """(B, R) log-probs under the reference."""

    def policy_stats(self, sequences: Sequences, *, temperature: float) -> tuple[TokenStats, Tensor]:
        """Those of the actor, and (B, R) log-probs under the reference: without gradients, in one go if possible."""

    def exact_kl(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """(B, R) KL(actor || reference) over the whole vocabulary before each response token, in nats."""

    def values(self, sequences: Sequences) -> Tensor | None:
        """(B, R) of the critic, before each response token; None without a critic."""

    def scores(self, answers: Answers) -> Scores:
        """(B,) of the reward source."""

    def generator(self) -> nn.Module:
        """The net that samples, called like one of Hugging Face's."""

    def exported(self) -> PreTrainedModel:
        """The net that an export holds."""

    def nets(self) -> dict[str, nn.Module]:
        """The net behind each role that has one."""

    def trainable(self) -> dict[str, nn.Module]:
        """What holds the weights to update, by role."""

    def frozen(self) -> tuple[str, ...]:
        """Names of the submodules that no optimizer changes."""

    def refresh_reference(self) -> None:
        """Makes the actor, as it is now, the reference."""


class SeparateRoles(nn.Module):
    """Four separate nets."""

    def __init__(
        self,
        *,
        actor: PreTrainedModel,
        reference: PreTrainedModel,
        reward: Callable[[Answers], Scores],
        critic: ScalarModel | None = None,
    ) -> None:
        """Freezes the reference and the reward's nets.

        Args:
            actor: The net to train.
            reference: What it must stay near.
            reward: Gives scores; a module if it holds nets.
            critic: Estimates what score is to be expected; None for algorithms that need none.

        Raises:
            ValueError: If the actor is its own reference, or the critic the reward model.
        """
        super().__init__()
        if actor is reference:
            raise ValueError("actor and reference are the same object: the KL would always be 0; pass a copy")
        if critic is not None and isinstance(reward, nn.Module) and critic in reward.modules():
            raise ValueError("critic and reward are the same object: one is trained, the other is not; pass a copy")
        self.actor, self.critic, self.reference, self.reward = actor, critic, reference, reward
        for name in self.frozen():
            self.get_submodule(name).requires_grad_(False).eval()

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy_grad: bool = False) -> TokenStats:
        """See `Roles`."""
        return token_stats(response_logits(self.actor, sequences, temperature), sequences, entropy_grad)

    def label_logprobs(self, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
        """See `Roles`."""
        return label_logprobs(self.actor, input_ids, attention_mask, loss_mask)

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        return token_logprobs(response_logits(self.reference, sequences, temperature), sequences.responses)

    def policy_stats(self, sequences: Sequences, *, temperature: float) -> tuple[TokenStats, Tensor]:
        """See `Roles`."""
        stats = self.actor_stats(sequences, temperature=temperature)
        return stats, self.ref_logprobs(sequences, temperature=temperature)

    def exact_kl(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        logits, ref_logits = (response_logits(net, sequences, temperature) for net in (self.actor, self.reference))
        return exact_kl(logits, ref_logits)

    def values(self, sequences: Sequences) -> Tensor | None:
        """See `Roles`."""
        return None if self.critic is None else self.critic.values(sequences)

    def scores(self, answers: Answers) -> Scores:
        """See `Roles`."""
        return self.reward(answers)

    def generator(self) -> PreTrainedModel:
        """See `Roles`."""
        return self.actor

    def exported(self) -> PreTrainedModel:
        """See `Roles`."""
        return self.actor

    def nets(self) -> dict[str, nn.Module]:
        """See `Roles`."""
        return dict(self.named_children())

    def trainable(self) -> dict[str, nn.Module]:
        """See `Roles`."""
        return {"actor": self.actor} if self.critic is None else {"actor": self.actor, "critic": self.critic}

    def frozen(self) -> tuple[str, ...]:
        """See `Roles`."""
        return ("reference", "reward") if isinstance(self.reward, nn.Module) else ("reference",)

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """See `Roles`."""
        # Not the state of a plain net, for which some strategies gather weights another time.
        weights = dict(self.actor.named_parameters()) if is_plain(self.actor) else dict(merged_weights(self.actor))
        for name, weight in self.reference.named_parameters():
            weight.copy_(weights[name])


Net = nn.Module | Callable[[], nn.Module]
"""A net, or a function that builds it: sharded strategies want to be there when it is built."""


def build(net: Net) -> Any:
    """The net itself, or what its function returns; in training mode, which transformers leaves when it loads."""
    return (net if isinstance(net, nn.Module) else net()).train()


def build_trained(net: Net) -> Any:
    """A net all of whose weights are trained, or an adapter: it holds what it trains in fp32."""
    built = build(net)
    hold_in_fp32(built)
    return built


def build_policies(actor: Net, reference: Net) -> tuple[Any, Any]:
    """The actor, and the reference in the dtype of the actor: otherwise they would differ before training.

    Raises:
        UserError: If they are given in different dtypes.
    """
    built, frozen = build(actor), build(reference).requires_grad_(False).eval()
    if frozen.dtype != built.dtype:
        raise UserError(
            f"reference: its weights are {frozen.dtype} and the actor's {built.dtype}, so they would differ before "
            "training: load both in one dtype"
        )
    if not adapter_layers(built):
        hold_in_fp32(built, frozen)
    return built, frozen
