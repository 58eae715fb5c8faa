"""The Hydra configuration, as the package `lightning_rlhf.conf`; Hydra finds it only with this file.

In a YAML file, `${packaged:package/file,name}` is `pkg://package/file` where that package is installed, else `name`.
"""

from importlib.util import find_spec

from omegaconf import OmegaConf


def packaged(file: str, name: str) -> str:
    """A file of an installed package, or a name of what it holds.

    Args:
        file: The package and the path in it.
        name: What to take where there is no such package, such as a hub name.
    """
    return f"pkg://{file}" if find_spec(file.partition("/")[0]) else name


OmegaConf.register_new_resolver("packaged", packaged, replace=True)
