"""What a critic starts from, by `critic_init` and `critic_head` of the stage."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.handoff import Models, is_adapter, is_of_run
from lightning_rlhf.assembly.reward_models import reward_models
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.files import adapter_folder
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
"""Settings that are not of a model, but of how it is trained."""


def reward_sources(config: DictConfig, models: Models) -> list[ModelSource]:
    """Where the reward models come from; those that earlier stages of the run leave are not looked for.

    Raises:
        UserError: If one is not named, or cannot be found.
    """
    sources = []
    for place, node in reward_models(config).items():
        if OmegaConf.is_missing(node, "path"):
            raise UserError(
                f"{place}.path is not set: give the folder of a trained reward model (the model/ that stage=reward "
                "left in its run folder), or reward=function reward.function=module:function"
            )
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
    """Where the critic of a stage starts.

    Args:
        config: Of the stage.
        block: The name of the stage's own part of it.
        policy: What the actor starts from.
        rewards: The reward models behind the score, of which the critic may start from the first.
        renderer: The actor's.
        models: What earlier stages leave.

    Raises:
        UserError: If it cannot start there, or there is no such head.
    """
    start, head = config[block].critic_init, config[block].critic_head
    if start not in (None, "reward", "policy"):
        raise UserError(f"{block}.critic_init={start}: must be reward, policy, or null for what fits")
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
        # The merged weights would be quantized back to what they were before the adapter.
        if head == "trained":
            raise UserError(
                f"{block}.critic_head=trained with model.quantization={policy.quantization}: the critic starts from "
                "the reward model's adapter, without its head: set it to zero"
            )
        return replace(policy, adapter_dir=str(adapter_folder(Path(path))))
    return like_policy(rewards[0], policy)


def like_policy(model: ModelSource, policy: ModelSource) -> ModelSource:
    """A net that starts from a reward model, and is trained in the way of the actor."""
    return replace(model, **{name: getattr(policy, name) for name in _WAY})


def check_critic(source: ModelSource, block: str, renderer: Renderer) -> None:
    """Checks that a critic which starts from a reward model reads the ids that the actor writes.

    Raises:
        UserError: If the vocabularies of the two differ.
    """
    if source.load_tokenizer().get_vocab() != renderer.tokenizer.get_vocab():
        raise UserError(
            f"{source.setting}={source.pretrained}: its tokenizer is not the actor's, so no critic can start from it: "
            f"set {block}.critic_init=policy"
        )
