"""Finds the model that a critic starts from, by `critic_init` and `critic_head` of the stage."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.handoff import Models, is_adapter, is_of_run
from lightning_rlhf.assembly.reward_models import reward_models
from lightning_rlhf.assembly.settings import REWARD_PATH
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.models.source import ModelSource

_WAY = (
    "dropout",
    "attn_implementation",
    "trust_remote_code",
    "gradient_checkpointing",
    "compile",
    "adapter",
    "quantization",
    "seed",
)
"""Settings that do not describe a model, but how it is trained."""


def reward_sources(config: DictConfig, models: Models) -> list[ModelSource]:
    """The sources of the reward models. A model that an earlier stage of the run will leave need not exist yet.

    Raises:
        UserError: If a reward model is not named, or cannot be found.
    """
    sources = []
    for place, node in reward_models(config).items():
        if OmegaConf.is_missing(node, "path"):
            raise UserError(f"{place}.path {REWARD_PATH}")
        source = ModelSource(pretrained=node.path, dtype=node.get("dtype", ModelSource.dtype), setting=f"{place}.path")
        if not is_of_run(node.path, models):
            source.load_tokenizer()
        sources.append(source)
    return sources


def critic_source(
    config: DictConfig,
    block: str,
    policy: ModelSource,
    rewards: Sequence[ModelSource],
    renderer: Renderer,
    models: Models,
) -> ModelSource:
    """The source that the critic of a stage starts from.

    Args:
        config: The configuration of the stage.
        block: Name of the block of the configuration with the settings of the stage.
        policy: Source of the actor.
        rewards: Sources of the reward models behind the score. The critic may start from the first.
        renderer: Renderer of the actor.
        models: Folders of the models that earlier stages leave.

    Raises:
        UserError: If the critic cannot start from what `critic_init` names, or `critic_head` is unknown.
    """
    start, head = config[block].critic_init, config[block].critic_head
    if start not in (None, "reward", "policy"):
        raise UserError(f"{block}.critic_init={start}: must be reward, policy, or null to choose automatically")
    if head not in ("zero", "normal", "trained"):
        raise UserError(f"{block}.critic_head={head}: must be zero, normal, or trained")
    if start == "reward" and not rewards:
        raise UserError(
            f"{block}.critic_init=reward, but the score comes from no reward model: set it to policy or null"
        )
    if start == "policy" or not rewards:
        if head == "trained":
            raise UserError(f"{block}.critic_head=trained, but only a reward model has a trained head: set it to zero")
        return policy
    path = str(rewards[0].pretrained)
    if not is_of_run(path, models):
        check_critic(rewards[0], block, renderer)
    if policy.quantization and is_adapter(path, config, models):
        # Quantization would round merged weights back to their values before the adapter.
        if head == "trained":
            raise UserError(
                f"{block}.critic_head=trained with model.quantization={policy.quantization}: the critic starts from "
                "the reward model's adapter, without its head: set it to zero"
            )
        return replace(policy, adapter_dir=str(adapter_folder(Path(path))))
    return like_policy(rewards[0], policy)


def like_policy(model: ModelSource, policy: ModelSource) -> ModelSource:
    """The source of a model that starts from a reward model, and is trained in the same way as the actor."""
    return replace(model, **{name: getattr(policy, name) for name in _WAY})


def check_critic(source: ModelSource, block: str, renderer: Renderer) -> None:
    """Checks that a critic that starts from a reward model reads the token ids that the actor writes.

    Raises:
        UserError: If the vocabularies of the two differ.
    """
    if source.load_tokenizer().get_vocab() != renderer.tokenizer.get_vocab():
        raise UserError(
            f"{source.setting}={source.pretrained}: its tokenizer differs from the actor's, so the critic cannot start "
            f"from it: set {block}.critic_init=policy"
        )
