"""Tells errors that users can mend from defects of ours, and words those of Hydra and OmegaConf for users."""

import difflib
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.errors import UserError

# What no constructor says of a value: Hydra wraps these like a ValueError.
_DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)

# Settings that were renamed, and what to write in their place.
_RENAMED = {
    "ppo.module.loss.ratio": "ppo.module.loss.policy=clipped or gspo",
    "ppo.module.loss.dual_clip": "ppo.module.loss.policy=dual_clip +ppo.module.loss.options.dual_clip=VALUE",
}


def user_message(error: BaseException) -> str | None:
    """What to tell the user, if the error is theirs to mend; None for a defect of ours.

    Theirs is an error that was raised from their mistake, but not one that merely came while that was handled.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        # By name, since these libraries are not imported for a mistake that comes before they are needed.
        origin = type(cause).__module__
        if origin.startswith("wandb."):
            return f"Weights & Biases: {cause} (logger.wandb.mode=offline needs no account)"
        if origin == "lightning.fabric.utilities.exceptions":
            return f"trainer: {cause}"
        cause = cause.__cause__
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, _DEFECTS):
        return None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_message(error)
    return None


def _hydra_message(error: BaseException) -> str:
    """The first telling line of an error of Hydra or OmegaConf, with a suggestion for a misspelt key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    if isinstance(error, MissingConfigException):
        wanted = str(error.missing_cfg_file)
        # Our groups have folders of options (gpt2/small), Hydra's have groups of groups (hydra/launcher).
        group, _, option = wanted.rpartition("/") if wanted.startswith("hydra/") else wanted.partition("/")
        return f"there is no {group}={option}; there are {', '.join(_options(group, error.options))}"
    if isinstance(error, InstantiationException):
        node = re.search(r"full_key: (\S+)", str(error))
        return f"{node[1] if node else 'configuration'}: {error.__cause__ or message}"
    if missing := re.search(r"Missing mandatory value: (\S+)", message):
        return f"{missing[1]} is not set: give it as {missing[1]}=VALUE"
    if overridden := re.search(r"Could not override '(.+?)'", message):
        return f"there is no setting {overridden[1]!r}{_suggestion(overridden[1])}; --cfg job prints them all"
    return " ".join([message, *(line for line in lines[1:] if line.startswith("full_key"))])


def _options(group: str, found: Sequence[str] | None) -> list[str]:
    """Options of a group: those that Hydra found, and those in folders, such as gpt2/small, that it leaves out."""
    folder = Path(str(files("lightning_rlhf.conf"))) / group
    nested = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    # What options share is none.
    return sorted(name for name in {*nested, *(found or ())} if name.rpartition("/")[2] != "base")


def _suggestion(key: str) -> str:
    if key in _RENAMED:
        return f"; it is now {_RENAMED[key]}"
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    # A command may have a configuration of its own, named like its file.
    command = Path(sys.argv[0]).stem
    name = command if (Path(str(files("lightning_rlhf.conf"))) / f"{command}.yaml").is_file() else "train"
    GlobalHydra.instance().clear()
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = OmegaConf.to_container(compose(name), resolve=False)
    keys: list[str] = []

    def walk(node: Any, path: str) -> None:
        if path:
            keys.append(path)
        if isinstance(node, dict):
            for name, child in node.items():
                walk(child, f"{path}.{name}" if path else str(name))

    walk(config, "")
    if key in keys:
        return " in a run of this stage"
    parent = key.rpartition(".")[0]
    if parent.endswith(".options") and parent in keys:
        # What a function declares for itself is not listed.
        return f" yet; +{key}=VALUE adds it"
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""
