"""The handoff between stages: from the configuration of a run to that of its next stage."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.reward_models import adapter_class, reward_models
from lightning_rlhf.models.adapters.files import adapter_folder, holds_adapter
from lightning_rlhf.stages import stage_record

Models = Mapping[str, Path]
"""The folders of the models that the earlier stages of a run leave, by stage and in order; none need be there yet."""


def handed_on(config: DictConfig, models: Models) -> DictConfig:
    """The configuration of a stage that starts from what earlier stages leave.

    The policy starts from the last one that was trained. A reward model that was trained gives the score wherever the
    user names no other. If one net plays all roles, reward models that are adapters of it are put on it.

    Args:
        config: Of the run, or what this function has returned; it stays as it is.
        models: What earlier stages leave.

    Raises:
        UserError: If there is no such stage.
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
    """Whether a stage trains the adapter of the stage before it further, and not a new one of the merged net.

    One net that plays all roles is the same in all stages; and merged weights would be quantized again, back to the
    numbers that they had before the adapter.
    """
    return bool(config.roles == "shared" or config.model.quantization)


def is_adapter(path: str, config: DictConfig, models: Models) -> bool:
    """Whether a reward model is an adapter of the net that the policy is one of, by its files, or as it will be.

    Args:
        path: Its folder or hub name.
        config: Of the run.
        models: What earlier stages leave.
    """
    if is_of_run(path, models) and config.model.adapter:
        return True
    return holds_adapter(adapter_folder(Path(path)))


def is_of_run(path: str | None, models: Models) -> bool:
    """Whether an earlier stage of the run leaves a model, which may not be there yet."""
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
