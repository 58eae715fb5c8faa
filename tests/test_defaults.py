"""A default has one value: the YAML files repeat the defaults of the constructors, so that `--cfg job` prints them."""

import inspect
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

# The recipe of a stage differs on purpose from the defaults of the constructors in these settings.
RECIPE = {"optim.schedule", "optim.warmup", "data.answer_prompts", "model.config_tokenizer"}


def shown(config: DictConfig, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Yields the path and value of each literal setting of this package, with the default of the constructor."""
    target = config.get("_target_")
    if isinstance(target, str) and target.startswith("lightning_rlhf."):
        parameters = inspect.signature(get_object(target)).parameters
        for name in config.keys() & parameters.keys():
            node, default = config._get_node(name), parameters[name].default
            if OmegaConf.is_missing(config, name) or _comes_from_elsewhere(config, name):
                continue
            if default is not inspect.Parameter.empty and not OmegaConf.is_config(node):
                yield f"{path}.{name}", config[name], default
    for name in config:
        own = not (OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name))
        if own and isinstance(config[name], DictConfig):
            yield from shown(config[name], f"{path}.{name}")


def _comes_from_elsewhere(config: DictConfig, name: str) -> bool:
    """Whether a value is an interpolation, other than a learning rate that only adapters change."""
    written = str(config._get_node(name)._value())  # type: ignore[union-attr]
    return OmegaConf.is_interpolation(config, name) and not written.startswith("${full_lr:")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "dpo"])
def test_yaml_shows_the_default_of_the_constructor(stage: str) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"stage={stage}", "experiment=none"])
    found = list(shown(config))
    assert len(found) > 20
    assert any(path.endswith(".lr") for path, _, _ in found)
    different = {
        path: (value, default)
        for path, value, default in found
        if value != default and not any(path.endswith(f".{name}") for name in RECIPE)
    }
    assert not different
