"""What plays PPO's four roles: separate nets, or one."""

from typing import Any

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.roles import SeparateRoles, build_policies, build_trained
from lightning_rlhf.models.shared import Shared, SharedRoles, shared_roles
from lightning_rlhf.rewards.build import RewardSource, as_reward
from lightning_rlhf.rollout.credit import Credit


def role_builders(actor: Any, reference: Any, critic: Any, credit: Credit) -> dict[str, Any]:
    """The nets by role, or what builds them; those that no role needs are left out.

    Raises:
        UserError: If one is missing, or is given beside a net that plays all roles.
    """
    if isinstance(actor, Shared):
        if reference is not None or critic is not None:
            raise UserError("reference and critic cannot be given beside a net that plays all roles")
        return {"actor": actor}
    if reference is None:
        raise UserError("no reference is given: pass a second copy of the actor's start")
    if not credit.estimator.critic:
        return {"actor": actor, "reference": reference}
    if critic is None:
        raise UserError(f"advantage={credit.advantage} needs a critic, and none is given")
    return {"actor": actor, "reference": reference, "critic": critic}


def build_roles(
    builders: dict[str, Any], reward: RewardSource, renderer: Renderer, credit: Credit
) -> SeparateRoles | SharedRoles:
    """Builds the nets.

    Args:
        builders: See `role_builders`.
        reward: Where scores come from.
        renderer: The actor's.
        credit: Knows whether there is a critic.
    """
    actor = builders["actor"]
    if isinstance(actor, Shared):
        return shared_roles(
            actor, lambda backbone: as_reward(reward, renderer, backbone), with_critic=credit.estimator.critic
        )
    actor, reference = build_policies(actor, builders["reference"])
    critic = build_trained(builders["critic"]) if "critic" in builders else None
    return SeparateRoles(actor=actor, reference=reference, critic=critic, reward=as_reward(reward, renderer))


def without_own_net(roles: SeparateRoles | SharedRoles, credit: Credit) -> dict[str, str]:
    """The roles that no net of their own plays, and why."""
    notes = {}
    if isinstance(roles, SharedRoles):
        notes = {role: "an adapter of the backbone" for role, net in roles.nets().items() if net is roles.backbone}
        if roles.reference is None:
            notes["reference"] = "the backbone without adapters"
    if not credit.estimator.critic:
        notes["critic"] = f"none: advantage={credit.advantage} needs none"
    return notes
