"""The four roles of PPO: actor, critic, reference and reward.

The algorithm uses only the interface `Roles`, which has two implementations: four separate models, or one backbone that
serves all roles.

Shapes: B rows, R response tokens.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.adapters.active import adapter_layers
from lightning_rlhf.models.adapters.merging import is_plain, merged_weights
from lightning_rlhf.models.fast_layers import speed_up
from lightning_rlhf.models.forward import label_logprobs, response_kl, response_logits, response_stats
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.models.precision import hold_in_fp32
from lightning_rlhf.models.scalar import ScalarModel


class Roles(Protocol):
    """What PPO asks of its models. Log-probs are those of the sampling distribution, i.e. of logits / temperature."""

    @property
    def reward(self) -> Callable[[Answers], Scores]:
        """The reward source, which is a module if it contains models."""

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy: bool) -> TokenStats:
        """Computes (B, R) log-probs under the actor, for old and for new log-probs alike, and entropies if asked to."""

    def label_logprobs(self, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
        """Computes (N,) log-probs of the tokens to imitate under the actor, at temperature 1."""

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """Computes (B, R) log-probs under the reference."""

    def exact_kl(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """Computes (B, R) KL(actor || reference) over the whole vocabulary before each token, without gradients."""

    def values(self, sequences: Sequences) -> Tensor | None:
        """Computes (B, R) values of the critic before each response token; None without a critic."""

    def scores(self, answers: Answers) -> Scores:
        """Computes (B,) scores of the reward source."""

    def generator(self) -> nn.Module:
        """Returns the model that samples, which is called like a Hugging Face model."""

    def exported(self) -> PreTrainedModel:
        """Returns the model that an export contains."""

    def nets(self) -> dict[str, nn.Module]:
        """Returns the model of each role that has one."""

    def trainable(self) -> dict[str, nn.Module]:
        """Returns modules with the weights to update, by role."""

    def frozen(self) -> tuple[str, ...]:
        """Returns the names of the submodules that no optimizer changes."""

    def refresh_reference(self) -> None:
        """Makes the current actor the reference."""


class SeparateRoles(nn.Module):
    """Four separate models."""

    def __init__(
        self,
        *,
        actor: PreTrainedModel,
        reference: PreTrainedModel,
        reward: Callable[[Answers], Scores],
        critic: ScalarModel | None = None,
    ) -> None:
        """Freezes the reference and the models of the reward.

        Args:
            actor: The model to train.
            reference: The model to which the actor must stay close.
            reward: Gives scores; a module if it contains models.
            critic: Estimates the expected score; None for algorithms without a critic.

        Raises:
            ValueError: If the actor is also the reference, or the critic is also the reward model.
        """
        super().__init__()
        if actor is reference:
            raise ValueError("actor and reference are the same object: the KL would always be 0; pass a copy")
        if critic is not None and isinstance(reward, nn.Module) and critic in reward.modules():
            raise ValueError("critic and reward are the same object: one is trained, the other is not; pass a copy")
        self.actor, self.critic, self.reference, self.reward = actor, critic, reference, reward
        for name in self.frozen():
            self.get_submodule(name).requires_grad_(False).eval()

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy: bool = True) -> TokenStats:
        """See `Roles`."""
        return response_stats(self.actor, sequences, temperature=temperature, entropy=entropy)

    def label_logprobs(self, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
        """See `Roles`."""
        return label_logprobs(self.actor, input_ids, attention_mask, loss_mask)

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        return response_stats(self.reference, sequences, temperature=temperature).logprobs

    def exact_kl(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        logits, ref_logits = (response_logits(net, sequences, temperature) for net in (self.actor, self.reference))
        return response_kl(logits, ref_logits, sequences.response_mask)

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
        # The state of a plain model is not used, because some strategies would gather the weights again for it.
        weights = dict(self.actor.named_parameters()) if is_plain(self.actor) else dict(merged_weights(self.actor))
        for name, weight in self.reference.named_parameters():
            weight.copy_(weights[name])


Net = nn.Module | Callable[[], nn.Module]
"""A model, or a function that builds it, because sharding strategies take part in building models."""


def build(net: Net) -> Any:
    """Returns the model or the function's result, in training mode; transformers loads models in evaluation mode."""
    built = net if isinstance(net, nn.Module) else net()
    speed_up(built)
    return built.train()


def build_trained(net: Net) -> Any:
    """Builds a model whose weights, or whose adapter, are trained; trained weights are held in fp32."""
    built = build(net)
    hold_in_fp32(built)
    return built


def build_policies(actor: Net, reference: Net) -> tuple[Any, Any]:
    """Builds actor and reference, which must have the same dtype; otherwise they would differ before training.

    Raises:
        UserError: If their dtypes differ.
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
