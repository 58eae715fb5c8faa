"""The handoff between stages: derives the configuration of a stage from that of the run."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.reward_models import adapter_class, reward_models
from lightning_rlhf.models.adapters.files import holds_adapter
from lightning_rlhf.models.names import adapter_folder
from lightning_rlhf.stages import stage_record

Models = Mapping[str, Path]
"""The folders of the models that the earlier stages of a run leave, by stage and in order. They need not exist yet."""


def handed_on(config: DictConfig, models: Models) -> DictConfig:
    """The configuration of a stage that starts from the models of earlier stages.

    The policy starts from the last policy that was trained. A reward model that was trained gives the score wherever
    the user names no other. If one model takes all roles, reward models that are adapters of it are added to it.

    Args:
        config: The configuration of the run, or one that this function has returned. It is not changed.
        models: Folders of the models that earlier stages leave.

    Raises:
        UserError: If a stage does not exist.
    """
    config = config.copy()
    for name, folder in models.items():
        if stage_record(name).trains_reward_model:
            for node in reward_models(config).values():
                if OmegaConf.is_missing(node, "path"):
                    node.path = str(folder)
        elif goes_on_with_adapter(config):
            config.model.adapter_dir = str(adapter_folder(folder))
        else:
            config.model.pretrained, config.model.tokenizer, config.model.meta_dir = str(folder), None, None
    if config.roles == "shared":
        _put_on_backbone(config, models)
    return config


def goes_on_with_adapter(config: DictConfig) -> bool:
    """Whether a stage continues to train the adapter of the stage before it, instead of a new one on merged weights.

    It does if one model takes all roles, because that model is the same in all stages. It also does if the model is
    quantized, because quantization would round merged weights back to their values before the adapter.
    """
    return bool(config.roles == "shared" or config.model.quantization)


def is_adapter(path: str, config: DictConfig, models: Models) -> bool:
    """Whether a reward model is an adapter of the same base model as the policy.

    The files of the reward model decide, or, before the run has trained it, the settings.

    Args:
        path: Folder or hub name of the reward model.
        config: The configuration of the run.
        models: Folders of the models that earlier stages leave.
    """
    if is_of_run(path, models) and config.model.adapter:
        return True
    return holds_adapter(adapter_folder(Path(path)))


def is_of_run(path: str | None, models: Models) -> bool:
    """Whether a path is that of a model that an earlier stage of the run leaves. It need not exist yet."""
    return Path(str(path)) in models.values()


def _put_on_backbone(config: DictConfig, models: Models) -> None:
    for place, node in reward_models(config).items():
        found = adapter_class(node)
        if found is None or OmegaConf.is_missing(node, "path") or not is_adapter(node.path, config, models):
            continue
        adapter = {
            "_target_": f"{found.__module__}.{found.__qualname__}",
            "path": node.path,
            "template": node.template,
            "setting": f"{place}.path",
        }
        OmegaConf.update(config, place, adapter, merge=False)
