"""Keeps passwords out of a configuration, which a run writes to its folder, its card and its loggers."""

import re
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.errors import raise_problems

_WITH_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s@]+@", re.IGNORECASE)


def check_urls(config: DictConfig) -> None:
    """Checks that no URL contains a user or a password.

    Args:
        config: A composed configuration, resolved or not.

    Raises:
        UserError: If one does. The message names the settings, and does not show the URLs.
    """
    raise_problems(
        f"{place}: the password of a URL would be written to the files of the run in clear: leave user and password "
        "out; a server may ask for a token, which is read from an environment variable (token_env, api_key_env)"
        for place in _places(config, OmegaConf.to_container(config, resolve=False), "")
    )


def _places(config: DictConfig, node: object, place: str) -> Iterator[str]:
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _places(config, child, f"{place}[{index}]")
    if isinstance(node, dict):
        # Hydra repeats there what was typed.
        for key, child in node.items() if place != "hydra.overrides" else ():
            yield from _places(config, child, f"{place}.{key}" if place else str(key))
    if not isinstance(node, str):
        return
    if "${" in node:
        try:
            node = str(OmegaConf.select(config, place))
        except OmegaConfBaseException:
            return
    if _WITH_PASSWORD.search(node):
        yield place
