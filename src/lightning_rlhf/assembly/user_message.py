"""Distinguishes mistakes of the user from defects of this package, and rewords errors of Hydra and OmegaConf."""

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_rlhf.assembly.config_files import command_file, options
from lightning_rlhf.errors import UserError

# Errors that no constructor raises to reject a value. Hydra wraps them in the same way as a ValueError.
_DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)

# What the system, libraries in Rust and PyTorch say when a disk is full or may not be written.
_DISK = ("No space left on device", "Read-only file system", "Disk quota exceeded", "File too large (os error")

# Settings that were renamed, and their replacements.
_RENAMED = {
    "ppo.module.loss.ratio": "ppo.module.loss.policy=clipped or gspo",
    "ppo.module.loss.dual_clip": "ppo.module.loss.policy=dual_clip +ppo.module.loss.options.dual_clip=VALUE",
}


def user_message(error: BaseException) -> str | None:
    """The message for the user, if the error is a mistake of the user; None if it is a defect of this package.

    An error that was raised from a mistake (`raise … from`) is also a mistake. An error that merely occurred while a
    mistake was handled is not.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        # Compares names, because these libraries are not imported if the mistake occurs before they are needed.
        origin = type(cause).__module__
        if origin.startswith("wandb."):
            return f"Weights & Biases: {cause} (logger.wandb.mode=offline needs no account)"
        if origin == "lightning.fabric.utilities.exceptions":
            return f"trainer: {cause}"
        if (found := _from_system(cause)) is not None:
            return found
        cause = cause.__cause__
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, _DEFECTS):
        return None
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _hydra_message(error)
    return None


def _from_system(error: BaseException) -> str | None:
    """The message about a file that is not YAML, or a disk that takes no more."""
    text = " ".join(str(error).split())
    if isinstance(error, YAMLError):
        return f"not YAML: {text}"
    if any(sign in text for sign in _DISK):
        return f"the disk takes no more: {text}; free some of it, or name another folder (hydra.run.dir=FOLDER)"
    return None


def _hydra_message(error: BaseException) -> str:
    """The first meaningful line of an error of Hydra or OmegaConf, with a suggestion for a misspelt key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else type(error).__name__
    if isinstance(error, MissingConfigException):
        wanted = str(error.missing_cfg_file)
        # Our groups have folders of options (gpt2/small), whereas Hydra's groups contain groups (hydra/launcher).
        group, _, option = wanted.rpartition("/") if wanted.startswith("hydra/") else wanted.partition("/")
        return f"there is no {group}={option}; there are {', '.join(_options(group, error.options))}"
    if isinstance(error, InstantiationException):
        node = re.search(r"full_key: (\S+)", str(error))
        return f"{node[1] if node else 'configuration'}: {error.__cause__ or message}"
    if missing := re.search(r"Missing mandatory value: (\S+)", message):
        whole = re.search(r"full_key: (\S+)", str(error)) or missing
        return f"{whole[1]} is not set: give it as {whole[1]}=VALUE"
    if overridden := re.search(r"Could not override '(.+?)'", message):
        return f"there is no setting {overridden[1]!r}{_suggestion(overridden[1])}; --cfg job prints them all"
    if chosen := re.search(r"Multiple values for (\S+)\. .*'override (\S+): (.+)'", message):
        choice = f"{chosen[2]}={chosen[3]}"
        return f"+{choice}: {chosen[1]} has an option already, which {choice} replaces: leave out the plus"
    if added := re.search(r"force-add of config groups is not supported: '\+\+(.+)'", message):
        return f"++{added[1]}: the option of a group is chosen without a plus: {added[1]}"
    if deleted := re.search(r"Could not delete '(.+)'\. No match in the defaults list", message):
        return f"~{deleted[1]}: {deleted[1]} is not chosen, so it cannot be taken away"
    return " ".join([message, *(line for line in lines[1:] if line.startswith("full_key"))])


def _options(group: str, found: Sequence[str] | None) -> list[str]:
    """The options of a group: ours, and those that Hydra found, which may lie in a folder of the user."""
    return sorted({*options(group), *(name for name in found or () if name != "base")})


def config_of_command() -> str:
    """The name of the configuration of the command that runs: that of its file, or `train`."""
    command = Path(sys.argv[0]).stem
    return command if command_file(command).is_file() else "train"


def _suggestion(key: str) -> str:
    if key in _RENAMED:
        return f"; it is now {_RENAMED[key]}"
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = OmegaConf.to_container(compose(config_of_command()), resolve=False)
    keys: list[str] = []

    def walk(node: object, path: str) -> None:
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
        # The options that a function declares are not listed in the configuration.
        return f" yet; +{key}=VALUE adds it"
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""
