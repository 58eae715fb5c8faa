"""The Hydra configuration, as the package `lightning_rlhf.conf`; Hydra finds it only with this file.

In a YAML file, `${packaged:package/file,name}` becomes `pkg://package/file` if that package is installed, and otherwise
`name`.
"""

from importlib.util import find_spec

from omegaconf import OmegaConf


def packaged(file: str, name: str) -> str:
    """Returns a file of an installed package, or the name of something that replaces it.

    Args:
        file: The package and the path in it.
        name: The value to return if there is no such package, such as a hub name.
    """
    return f"pkg://{file}" if find_spec(file.partition("/")[0]) else name


OmegaConf.register_new_resolver("packaged", packaged, replace=True)
