"""Finds the reward models behind PPO's score: `reward` itself is one, or parts of a sum are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.files import adapter_folder, holds_adapter
from lightning_rlhf.models.source import ModelSource

_LOADER = "lightning_rlhf.rewards.load_reward"
_ADAPTER = "lightning_rlhf.rewards.AdapterReward"
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


def reward_models(config: DictConfig) -> dict[str, DictConfig]:
    """The nodes that load a reward model, by their place, such as `reward` or `reward.parts.model`.

    As a net of its own, or as an adapter, where a run has put it on the net that plays all roles.
    """
    return dict(_loaders(config.reward, "reward"))


def _loaders(node: DictConfig, place: str) -> Iterator[tuple[str, DictConfig]]:
    if node.get("_target_") in (_LOADER, _ADAPTER):
        yield place, node
        return
    for name in map(str, node):
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            yield from _loaders(node[name], f"{place}.{name}")


def fill_in(config: DictConfig, model_dir: str) -> None:
    """Lets PPO use a reward model that this run trains, wherever the user names no other."""
    for node in reward_models(config).values():
        if OmegaConf.is_missing(node, "path"):
            node.path = model_dir


def put_on_backbone(config: DictConfig, policy: ModelSource) -> None:
    """Lets a net that plays all roles play those reward models that are adapters; others stay nets of their own."""
    for place, node in reward_models(config).items():
        source = ModelSource(pretrained=node.path, setting=f"{place}.path")
        if holds_adapter(adapter_folder(Path(node.path))) or (_is_to_come(source, config) and policy.adapter):
            adapter = {"_target_": _ADAPTER, "path": node.path, "template": node.template, "setting": source.setting}
            OmegaConf.update(config, place, adapter, merge=False)


def reward_sources(config: DictConfig) -> list[ModelSource]:
    """Where the reward models come from; those that this run is still to train are not looked for.

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
        source = ModelSource(pretrained=node.path, dtype=node.dtype, setting=f"{place}.path")
        if not _is_to_come(source, config):
            source.load_tokenizer()
        sources.append(source)
    return sources


def critic_source(config: DictConfig, policy: ModelSource, renderer: Renderer) -> ModelSource:
    """Where the critic starts from, by `ppo.critic_init`; of a sum of rewards, the first reward model.

    Raises:
        UserError: If it cannot start there, or there is no such head.
    """
    models = reward_sources(config)
    start, head = config.ppo.critic_init, config.ppo.critic_head
    if start not in (None, "reward", "policy"):
        raise UserError(f"ppo.critic_init={start}: must be reward, policy, or null for what fits")
    if head not in ("zero", "normal", "trained"):
        raise UserError(f"ppo.critic_head={head}: must be zero, normal, or trained")
    if start == "reward" and not models:
        raise UserError("ppo.critic_init=reward, but the score comes from no reward model: set it to policy or null")
    if start == "policy" or not models:
        if head == "trained":
            raise UserError("ppo.critic_head=trained, but only a reward model has a trained head: set it to zero")
        return policy
    check_critic(models[0], config, renderer)
    folder = adapter_folder(Path(str(models[0].pretrained)))
    if policy.quantization and (_is_to_come(models[0], config) or holds_adapter(folder)):
        # The merged weights would be quantized back to what they were before the adapter.
        if head == "trained":
            raise UserError(
                f"ppo.critic_head=trained with model.quantization={policy.quantization}: the critic starts from the "
                "reward model's adapter, without its head: set it to zero"
            )
        return replace(policy, adapter_dir=str(folder))
    return like_policy(models[0], policy)


def like_policy(model: ModelSource, policy: ModelSource) -> ModelSource:
    """A net that starts from a reward model, and is trained in the way of the actor."""
    return replace(model, **{name: getattr(policy, name) for name in _WAY})


def check_critic(source: ModelSource, config: DictConfig, renderer: Renderer) -> None:
    """Checks that a critic which starts from a reward model reads the ids that the actor writes.

    Raises:
        UserError: If the vocabularies of the two differ.
    """
    if _is_to_come(source, config):
        return
    if source.load_tokenizer().get_vocab() != renderer.tokenizer.get_vocab():
        raise UserError(
            f"{source.setting}={source.pretrained}: its tokenizer is not the actor's, so no critic can start from it: "
            "set ppo.critic_init=policy"
        )


def _is_to_come(source: ModelSource, config: DictConfig) -> bool:
    """Whether an earlier stage of this run is going to leave the model."""
    return Path(str(source.pretrained)) in [Path(config.run_dir).parent / name / "model" for name in config.stages]
