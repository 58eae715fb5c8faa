"""One backbone for all roles of PPO: each role is an adapter of the same model, which is in memory once.

Actor and critic are adapters that are being trained, a reward model is an adapter that was trained before, and the
reference is the model without adapters, or with the adapter that the actor started from.

Shapes: B rows, R response tokens, D hidden size.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Answers, Scores, Sequences
from lightning_rlhf.models.adapters.active import activate, activated
from lightning_rlhf.models.adapters.lora import ADAPTER, copy_adapter, is_part_of_adapter, put_adapter, train_only
from lightning_rlhf.models.adapters.merging import active_adapter
from lightning_rlhf.models.adapters.scalar import AdapterScalar
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.forward import label_logprobs, response_kl, response_logits, response_stats
from lightning_rlhf.models.head import TokenStats
from lightning_rlhf.models.roles import Net, build
from lightning_rlhf.models.scalar import HeadInit

Reward = Callable[[Answers], Scores]
CRITIC, REFERENCE = "critic", "reference"
"""Names of adapters; the actor's is `ADAPTER`."""


class Shared:
    """One model for all roles. `PPOModule` takes it as its actor, without a reference and a critic beside it.

    Example:
        >>> source = ModelSource(pretrained="runs/sft/model", adapter=Lora())
        >>> PPOModule(actor=Shared(partial(load_causal_lm, source)), reward=AdapterReward("runs/reward/model"), …)
    """

    def __init__(
        self,
        net: Net,
        *,
        reference: Literal["base", "adapter"] = "base",
        critic_init: Literal["reward", "policy"] | None = None,
        critic_head: HeadInit = "zero",
    ) -> None:
        """Stores what to build.

        Args:
            net: A causal language model with the adapter of the actor, or a function that builds it.
            reference: The reference of the KL: `base` is the model without adapters, `adapter` is the model with the
                adapter that the actor has at the start.
            critic_init: The role whose adapter the critic starts from; None for the reward model if it is an adapter of
                this model, and else for the policy.
            critic_head: The head that the critic starts with; `trained` is that of the reward model.
        """
        self.net, self.reference, self.critic_init, self.critic_head = net, reference, critic_init, critic_head


class SharedRoles(nn.Module):
    """A backbone and the roles that are adapters of it."""

    def __init__(
        self, backbone: Backbone, *, reward: Reward, critic: AdapterScalar | None, reference: str | None
    ) -> None:
        """Freezes everything except the adapters of actor and critic and the head of the critic.

        Args:
            backbone: The model with the adapters.
            reward: Gives scores; a module if it contains models or heads.
            critic: Estimates the expected score; None for algorithms without a critic.
            reference: Name of the adapter of the reference; None for the model without adapters.
        """
        super().__init__()
        self.backbone, self.critic, self.reward, self.reference = backbone, critic, reward, reference
        if isinstance(reward, nn.Module):
            reward.requires_grad_(False).eval()
        train_only(backbone.net, ADAPTER, *([] if critic is None else [critic.adapter]))
        activate(backbone.net, ADAPTER)

    def actor_stats(self, sequences: Sequences, *, temperature: float, entropy: bool = True) -> TokenStats:
        """See `Roles`."""
        return response_stats(self.backbone, sequences, temperature=temperature, entropy=entropy)

    def label_logprobs(self, input_ids: Tensor, attention_mask: Tensor, loss_mask: Tensor) -> Tensor:
        """See `Roles`."""
        return label_logprobs(self.backbone, input_ids, attention_mask, loss_mask)

    def ref_logprobs(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        with activated(self.backbone, self.reference):
            return response_stats(self.backbone, sequences, temperature=temperature).logprobs

    def exact_kl(self, sequences: Sequences, *, temperature: float) -> Tensor:
        """See `Roles`."""
        logits = response_logits(self.backbone, sequences, temperature)
        with activated(self.backbone, self.reference):
            ref_logits = response_logits(self.backbone, sequences, temperature)
        return response_kl(logits, ref_logits, sequences.response_mask)

    def values(self, sequences: Sequences) -> Tensor | None:
        """See `Roles`."""
        return None if self.critic is None else self.critic.values(sequences)

    def scores(self, answers: Answers) -> Scores:
        """See `Roles`."""
        return self.reward(answers)

    def generator(self) -> Backbone:
        """See `Roles`."""
        return self.backbone

    def exported(self) -> PreTrainedModel:
        """See `Roles`."""
        return self.backbone.net

    def nets(self) -> dict[str, nn.Module]:
        """See `Roles`."""
        nets: dict[str, nn.Module] = {"actor": self.backbone, "reference": self.backbone}
        if self.critic is not None:
            nets["critic"] = self.backbone
        if isinstance(self.reward, nn.Module):
            nets["reward"] = self.backbone if _on_backbone(self.reward) else self.reward
        return nets

    def trainable(self) -> dict[str, nn.Module]:
        """See `Roles`."""
        weights = {"actor": self._adapter(ADAPTER)}
        if self.critic is not None:
            weights["critic"] = [*self._adapter(self.critic.adapter), *self.critic.parameters()]
        return {role: nn.ParameterList(members) for role, members in weights.items()}

    def _adapter(self, name: str) -> list[nn.Parameter]:
        return [weight for key, weight in self.backbone.named_parameters() if is_part_of_adapter(key, name)]

    def frozen(self) -> tuple[str, ...]:
        """See `Roles`."""
        return ("reward",) if isinstance(self.reward, nn.Module) else ()

    def refresh_reference(self) -> None:
        """See `Roles`.

        Raises:
            UserError: If the reference is the model without adapters.
        """
        if self.reference is None:
            raise UserError(
                "the reference is the model without adapters, which cannot change: use Shared(reference='adapter')"
            )
        put_adapter(self.backbone, ADAPTER, self.reference)


def shared_roles(shared: Shared, make_reward: Callable[[Backbone], Reward], *, with_critic: bool) -> SharedRoles:
    """Builds the roles.

    Args:
        shared: The model.
        make_reward: Builds the source of scores, and may add adapters to the model.
        with_critic: Whether the algorithm has a critic.

    Raises:
        UserError: If the model has no adapter, or if the critic shall start from a reward model that is not an adapter
            of this model.
    """
    net = build(shared.net)
    if active_adapter(net) is None:
        raise UserError("roles=shared: each role is an adapter of one model, which has no adapter: add adapter=lora")
    backbone = Backbone(net)
    if shared.reference == "adapter":
        copy_adapter(net, ADAPTER, REFERENCE)
    reward = make_reward(backbone)
    critic = _critic(shared, backbone, reward) if with_critic else None
    return SharedRoles(
        backbone, reward=reward, critic=critic, reference=REFERENCE if shared.reference == "adapter" else None
    )


def _critic(shared: Shared, backbone: Backbone, reward: Reward) -> AdapterScalar:
    net: PreTrainedModel = backbone.net
    model = next(iter(_on_backbone(reward)), None) if shared.critic_init != "policy" else None
    if model is None and (shared.critic_init == "reward" or shared.critic_head == "trained"):
        raise UserError(
            "ppo.critic_init=reward or ppo.critic_head=trained: the reward model is not an adapter of the actor's "
            "model: set ppo.critic_init=policy and ppo.critic_head=zero, or roles=separate"
        )
    copy_adapter(net, ADAPTER if model is None else model.adapter, CRITIC)
    if model is not None and shared.critic_head == "trained":
        return AdapterScalar(backbone, CRITIC, model.head.weight, float(model.bias.detach()))
    # The head reads the same hidden states as the head over the vocabulary.
    size = net.get_output_embeddings().in_features
    std = 0.0 if shared.critic_head == "zero" else (size + 1) ** -0.5
    return AdapterScalar(backbone, CRITIC, std * torch.randn(1, size), 0.0)


def _on_backbone(reward: Reward) -> list[AdapterScalar]:
    """Returns the reward models that are adapters, out of all modules of a source of scores."""
    modules = reward.modules() if isinstance(reward, nn.Module) else ()
    return [module for module in modules if isinstance(module, AdapterScalar)]
