"""Builds the models of PPO's four roles: separate models, or one model for all of them."""

from collections.abc import Mapping
from typing import cast

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.roles import Net, SeparateRoles, build_policies, build_trained
from lightning_rlhf.models.shared import Shared, SharedRoles, shared_roles
from lightning_rlhf.rewards.build import RewardSource, as_reward
from lightning_rlhf.rollout.credit import Credit


def role_builders(
    actor: Net | Shared, reference: Net | None, critic: Net | None, credit: Credit
) -> dict[str, Net | Shared]:
    """Collects the models, or the functions that build them, by role; leaves out those that no role needs.

    Raises:
        UserError: If a model is missing, or is given in addition to one model for all roles.
    """
    if isinstance(actor, Shared):
        if reference is not None or critic is not None:
            raise UserError("reference and critic cannot be given in addition to one model for all roles")
        return {"actor": actor}
    if reference is None:
        raise UserError("no reference is given: pass a second copy of the initial actor")
    if not credit.estimator.critic:
        return {"actor": actor, "reference": reference}
    if critic is None:
        raise UserError(f"advantage={credit.advantage} needs a critic, and none is given")
    return {"actor": actor, "reference": reference, "critic": critic}


def build_roles(
    builders: Mapping[str, Net | Shared], reward: RewardSource, renderer: Renderer, credit: Credit
) -> SeparateRoles | SharedRoles:
    """Builds the models.

    Args:
        builders: The result of `role_builders`.
        reward: The source of scores.
        renderer: The renderer of the actor.
        credit: Settings of credit assignment, which say whether a critic is needed.
    """
    actor = builders["actor"]
    if isinstance(actor, Shared):
        return shared_roles(
            actor, lambda backbone: as_reward(reward, renderer, backbone), with_critic=credit.estimator.critic
        )
    nets = cast(Mapping[str, Net], builders)
    actor, reference = build_policies(nets["actor"], nets["reference"])
    critic = build_trained(nets["critic"]) if "critic" in nets else None
    return SeparateRoles(actor=actor, reference=reference, critic=critic, reward=as_reward(reward, renderer))


def without_own_net(roles: SeparateRoles | SharedRoles, credit: Credit) -> dict[str, str]:
    """Returns the roles that have no model of their own, with the reason."""
    notes = {}
    if isinstance(roles, SharedRoles):
        notes = {role: "an adapter of the backbone" for role, net in roles.nets().items() if net is roles.backbone}
        if roles.reference is None:
            notes["reference"] = "the backbone without adapters"
    if not credit.estimator.critic:
        notes["critic"] = f"none: advantage={credit.advantage} needs none"
    return notes
