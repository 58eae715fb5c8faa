"""The stages that the jobs of a sweep run, as their composed configurations say; an experiment may choose them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.config_files import groups, options, sections
from lightning_rlhf.assembly.user_message import config_of_command
from lightning_rlhf.stages import STAGES

_CHOOSING = ("stage", "experiment")
"""Groups of this package whose options choose stages."""


@dataclass(frozen=True)
class JobStages:
    """The stages of a job.

    Attributes:
        key: The setting that names them: `stage`, or `stages` if an override lists them.
        name: The value of the setting, such as `pipeline` or `[sft,dpo]`.
        blocks: The blocks of the configuration that its stages read.
    """

    key: str
    name: str
    blocks: frozenset[str]


class Composer:
    """Composes the configurations of jobs, as Hydra does, to see which stages they run."""

    def __init__(self, loader: ConfigLoader, name: str, command: str) -> None:
        """Stores what composes.

        Args:
            loader: Loads configurations, also those of the user.
            name: Name of the configuration.
            command: The command, whose settings are known.
        """
        self._loader = loader
        self._name = name
        self._settings = sections(command) - {*groups(), "stages"}
        self._idle = {group: set(options(group)) for group in groups() if group not in _CHOOSING}
        self._known: dict[tuple[str, ...], JobStages | None] = {}

    def stages(self, job: Sequence[str]) -> JobStages | None:
        """The stages of a job; None if it cannot be composed, or has a stage that this package does not have.

        Args:
            job: The overrides of the job, which may include settings of stages that it does not run.
        """
        choosing = tuple(self._choosing(job))
        if choosing not in self._known:
            self._known[choosing] = self._composed(list(choosing))
        return self._known[choosing]

    def stages_of_sweep(self, overrides: Sequence[str]) -> list[JobStages] | None:
        """The different stages of the jobs of a sweep; None if those of a job are not known.

        Args:
            overrides: The overrides of all jobs.
        """
        try:
            parsed = OverridesParser.create(self._loader).parse_overrides(self._choosing(overrides))
            (jobs,) = BasicSweeper.split_arguments(parsed, None)
        except HydraException:
            return None
        found = [self.stages(job) for job in jobs]
        known = [stages for stages in dict.fromkeys(found) if stages is not None]
        return None if None in found else known

    def _choosing(self, overrides: Sequence[str]) -> list[str]:
        """The overrides that may choose stages: options of groups, `stages`, and where Hydra looks for options."""
        return [text for text in overrides if self._may_choose(*text.lstrip("+~").partition("=")[::2])]

    def _may_choose(self, key: str, value: str) -> bool:
        if "." in key or key in self._settings:
            return key == "hydra.searchpath"
        # Composing takes time, and a sweep may combine many options. Those of the user may contain anything.
        return not set(value.split(",")) <= self._idle.get(key, set())

    def _composed(self, overrides: list[str]) -> JobStages | None:
        try:
            config = self._loader.load_configuration(self._name, overrides, RunMode.RUN)
            names = list(config.stages)
        except (HydraException, OmegaConfBaseException):
            return None
        if not STAGES.keys() >= set(names):
            return None
        listed = any(text.lstrip("+~").startswith("stages=") for text in overrides)
        return JobStages(
            key="stages" if listed else "stage",
            name=f"[{','.join(names)}]" if listed else str(config.hydra.runtime.choices.stage),
            blocks=frozenset(STAGES[name].block for name in names),
        )


def composer_of(arguments: Sequence[str]) -> Composer:
    """The composer for a sweep of the command that runs. It is the same for the same flags, and keeps what it composed.

    Args:
        arguments: The arguments of the command: flags of Hydra, and overrides.
    """
    flags = get_args_parser().parse_known_args(list(arguments))[0]
    command = config_of_command()
    folder = Path(flags.config_dir).absolute().as_uri() if flags.config_dir else None
    return _composer(flags.config_name or command, command, folder)


@functools.cache
def _composer(name: str, command: str, folder: str | None) -> Composer:
    path = create_config_search_path("pkg://lightning_rlhf.conf")
    if folder:
        path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
    return Composer(ConfigLoaderImpl(path), name, command)
