"""The Hydra configuration, as the package `lightning_rlhf.conf`; Hydra finds it only with this file.

In a YAML file, `${packaged:package/file,name}` becomes `pkg://package/file` if that package is installed, and otherwise
`name`; and `${full_lr:1e-5}` is a learning rate that was chosen for training all weights.
"""

from importlib.util import find_spec

from omegaconf import DictConfig, OmegaConf

_ADAPTERS_LEARN_AT = 10
"""The factor between good learning rates for adapters and for all weights. Sources: Biderman et al., "LoRA Learns Less
and Forgets Less" (2024), section 5.1; Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025)."""


def packaged(file: str, name: str) -> str:
    """Returns a file of an installed package, or the name of something that replaces it.

    Args:
        file: The package and the path in it.
        name: The value to return if there is no such package, such as a hub name.
    """
    return f"pkg://{file}" if find_spec(file.partition("/")[0]) else name


OmegaConf.register_new_resolver("packaged", packaged, replace=True)


def full_lr(rate: float, *, _root_: DictConfig) -> float:
    """Returns a learning rate for what a run trains.

    Args:
        rate: The rate for training all weights.
        _root_: The configuration. If it has an adapter, ten times the rate is returned.
    """
    # Rounded, since 10 * 1e-6 is 9.999999999999999e-06.
    return float(f"{rate * _ADAPTERS_LEARN_AT:.9g}") if _root_.model.adapter else rate


OmegaConf.register_new_resolver("full_lr", full_lr, replace=True)
