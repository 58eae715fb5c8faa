"""Makes the arguments with which the module of a stage builds its models."""

from collections.abc import Callable
from functools import partial

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
) -> dict[str, object]:
    """The arguments of a stage's module that build its models, and the gold metric if the stage trains a policy.

    Args:
        config: The configuration of the stage.
        record: The record of the stage, which lists its models.
        source: Source of the policy.
        renderer: Renderer of the policy.
        models: Folders of the models that earlier stages leave.

    Raises:
        UserError: If a reward model cannot be found, or the critic cannot start from what the settings name.
    """
    rewards = reward_sources(config, models) if "score" in record.nets.values() else []
    builders: dict[Net, Callable[[], object]] = {
        "policy": lambda: partial(load_causal_lm, source),
        # The reference is not trained, so it gets no new adapter.
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
    """Whether the reference of a shared model is an adapter of its own, and not the model without an adapter."""
    return bool(source.adapter_dir or block.module.refresh_reference_every)


def _on_one_net(
    nets: dict[str, object], block: DictConfig, record: StageRecord, source: ModelSource
) -> dict[str, object]:
    """Replaces actor, reference and critic by one model with adapters for these roles."""
    of = {kind: name for name, kind in record.nets.items()}
    shared = Shared(
        net=partial(load_causal_lm, source),
        reference="adapter" if reference_changes(source, block) else "base",
        critic_init=block.critic_init,
        critic_head=block.critic_head,
    )
    return {of["policy"]: shared, of["score"]: nets[of["score"]]}


def _score(config: DictConfig) -> object:
    check_targets({"reward": OmegaConf.to_container(config.reward, resolve=True)})
    return instantiate(config.reward)


def _gold(config: DictConfig) -> TextReward | None:
    # `gold` is the name of a function, or a node that builds one.
    function = instantiate(config.data.gold) if isinstance(config.data.gold, DictConfig) else config.data.gold
    return TextReward(function) if function else None
