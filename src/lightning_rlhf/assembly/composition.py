"""Finds all mistakes in a command line that Hydra cannot compose, of which Hydra reports only the first."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.quoting import misread, override, parsed
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.yaml_files import check_aliases


def composition_problems(name: str, arguments: Sequence[str]) -> tuple[Problems, DictConfig | None]:
    """Composes a configuration without the overrides that are wrong.

    Args:
        name: Name of the configuration, such as `train`.
        arguments: The arguments of the command: overrides, and flags of Hydra.

    Returns:
        One message for each wrong override, and the configuration without them; None if it could not be composed.
    """
    flags, _ = get_args_parser().parse_known_args(list(arguments))
    problems, kept = Problems(), []
    for text in flags.overrides:
        if (message := misread(text, sweeps=flags.multirun)) is not None:
            problems.add(message)
            # What else is wrong is found with the value that was meant.
            text = override(*text.split("=", 1)) if "=" in text else text
        if misread(text, sweeps=flags.multirun) is None:
            kept.append(_first_of_sweep(text))
    if flags.config_dir:
        kept.append(f"hydra.searchpath=[{override('', f'file://{flags.config_dir}').removeprefix('=')}]")
    while True:
        try:
            return problems, _composed(flags.config_name or name, kept)
        except (HydraException, OmegaConfBaseException) as error:
            problems.add(user_message(error) or str(error))
            wrong = _named_in(error, kept)
            if wrong is None:
                return problems, None
            kept.remove(wrong)


def check_config_folder(arguments: Sequence[str]) -> None:
    """Checks the YAML files of the folder that `--config-dir` names, before Hydra reads them.

    Args:
        arguments: The arguments of the command.

    Raises:
        UserError: If the aliases of a file make it too large for any memory.
    """
    folder = get_args_parser().parse_known_args(list(arguments))[0].config_dir
    for file in sorted(Path(folder).rglob("*.yaml")) if folder else ():
        check_aliases(file)


def _composed(name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        # Only a run has the folder that Hydra gives it.
        return compose(name, [*overrides, "run_dir=''"] if name == "train" else overrides)


def _first_of_sweep(text: str) -> str:
    """The override with the first value of its sweep, if it is one."""
    read = parsed(text)
    if read is None or not read.is_discrete_sweep():
        return text
    return f"{read.get_key_element()}={next(iter(read.sweep_string_iterator()))}"


def _named_in(error: Exception, overrides: Sequence[str]) -> str | None:
    """The override that an error of Hydra names; None if it names none."""
    absent = getattr(error, "missing_cfg_file", None)
    # Messages have keys or overrides in quotes, the place of a wrong value behind `full_key`, and a group with two
    # options behind `values for`.
    named = set(re.findall(r"'([^'\s]+)'|full_key: (\S+)|Multiple values for (\S+)\.", str(error)))
    named = {text for found in named for text in found}
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if not named.isdisjoint((key, text, text.lstrip("+~"))) or absent == f"{key.partition('@')[0]}/{value}":
            return text
    return None
