"""What the module of a stage is given to build its nets with."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.critic_start import critic_source, reward_sources
from lightning_rlhf.assembly.handoff import Models
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.shared import Shared
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rewards import TextReward
from lightning_rlhf.stages import Net, StageRecord


def nets_of(
    config: DictConfig, record: StageRecord, source: ModelSource, renderer: Renderer, models: Models
) -> dict[str, Any]:
    """The arguments of a stage's module that are nets, and the gold metric of one that trains a policy.

    Args:
        config: Of the stage.
        record: Which nets the stage has.
        source: Of the policy.
        renderer: Of the policy.
        models: What earlier stages leave.

    Raises:
        UserError: If a reward model or a start of the critic cannot be had.
    """
    rewards = reward_sources(config, models) if "score" in record.nets.values() else []
    builders: dict[Net, Callable[[], Any]] = {
        "policy": lambda: partial(load_causal_lm, source),
        # Not trained, so nothing is beside its weights.
        "reference": lambda: partial(load_causal_lm, source.frozen),
        "reward model": lambda: partial(load_scalar_model, source, "normal"),
        "critic": lambda: partial(
            load_scalar_model,
            critic_source(config, record.block, source, rewards, renderer, models),
            config[record.block].critic_head,
        ),
        "score": lambda: _score(config),
    }
    nets = {name: builders[kind]() for name, kind in record.nets.items()}
    if config.roles == "shared" and record.has_four_roles:
        nets = _on_one_net(nets, config[record.block], record, source)
    return nets if record.trains_reward_model else nets | {"gold": _gold(config)}


def reference_changes(source: ModelSource, block: DictConfig) -> bool:
    """Whether the reference of one net that plays all roles is an adapter, and not that net without any."""
    return bool(source.adapter_dir or block.module.refresh_reference_every)


def _on_one_net(nets: dict[str, Any], block: DictConfig, record: StageRecord, source: ModelSource) -> dict[str, Any]:
    """The actor plays reference and critic too."""
    of = {kind: name for name, kind in record.nets.items()}
    shared = Shared(
        net=nets[of["policy"]],
        reference="adapter" if reference_changes(source, block) else "base",
        critic_init=block.critic_init,
        critic_head=block.critic_head,
    )
    return {of["policy"]: shared, of["score"]: nets[of["score"]]}


def _score(config: DictConfig) -> Any:
    check_targets({"reward": OmegaConf.to_container(config.reward, resolve=True)})
    return instantiate(config.reward)


def _gold(config: DictConfig) -> TextReward | None:
    # The name of a function, or a node that builds one.
    function = instantiate(config.data.gold) if isinstance(config.data.gold, DictConfig) else config.data.gold
    return TextReward(function) if function else None
