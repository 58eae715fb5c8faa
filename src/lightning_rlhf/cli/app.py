"""Runs a Hydra app the way users of a command line expect: a mistake is one message and exit code 2."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.ending import without_finalization

_INTERRUPTED = 130
# What gloo, NCCL and PyTorch's store say of it.
_CONNECTION_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exit",
    "remote server shutdown",
)
# What no constructor says of a value: Hydra wraps these like a ValueError.
_DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
# Whether the user asked Hydra for tracebacks, before we did.
_TRACEBACK = "LIGHTNING_RLHF_TRACEBACK"


def run_app(app: Callable[[], Any]) -> None:
    """Calls a function that `hydra.main` has wrapped, and reports errors in composing the configuration."""
    # Idle threads sleep instead of spinning: beside another busy process, spinning ones made training seven times
    # slower. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Otherwise Hydra prints its own shortened traceback and exits with 1.
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with without_finalization(), exit_codes():
        app()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns a mistake of the user into one message and exit code 2, and Ctrl-C into one line and exit code 130.

    A rank whose partner has died ends with one message and code 1: its own traceback would hide the other's.
    With HYDRA_FULL_ERROR=1 in the environment, tracebacks are shown.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        sys.exit(_INTERRUPTED)
    except Exception as error:
        message, lost = user_message(error), _lost_process(error)
        if not (message or lost) or os.environ.get(_TRACEBACK) == "1":
            raise
        _say(f"error: {message or lost}")
        sys.exit(2 if message else 1)


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


def _lost_process(error: BaseException) -> str | None:
    """What to say where an exchange failed since a process at its other end is gone; None if that is not so."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not any(sign in text for sign in _CONNECTION_LOST):
        return None
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return (
        f"rank {rank} exchanges with another process, which has ended, so it ends too: the other one says why, unless "
        f"it was killed, for want of memory perhaps ({text.splitlines()[0]})"
    )


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
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(message, style="bold red", highlight=False, markup=False)
