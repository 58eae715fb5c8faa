"""The stages that the jobs of a sweep run, as their composed configurations say; an experiment may choose them."""

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

from lightning_rlhf.assembly.config_files import groups, sections
from lightning_rlhf.stages import STAGES


@dataclass(frozen=True)
class JobStages:
    """The stages of a job.

    Attributes:
        option: The option of the group `stage`, such as `pipeline`.
        blocks: The blocks of the configuration that its stages read.
    """

    option: str
    blocks: frozenset[str]


class Composer:
    """Composes the configurations of jobs, as Hydra does, to see which stages they run."""

    def __init__(self, loader: ConfigLoader, name: str) -> None:
        """Stores what composes.

        Args:
            loader: Loads configurations, also those of the user.
            name: Name of the configuration.
        """
        self._loader = loader
        self._name = name
        self._settings = sections() - {*groups(), "stages"}
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
        keys = [(text, text.lstrip("+~").partition("=")[0]) for text in overrides]
        return [
            text for text, key in keys if key == "hydra.searchpath" or ("." not in key and key not in self._settings)
        ]

    def _composed(self, overrides: list[str]) -> JobStages | None:
        try:
            config = self._loader.load_configuration(self._name, overrides, RunMode.RUN)
            blocks = frozenset(STAGES[name].block for name in config.stages)
        except (HydraException, OmegaConfBaseException, KeyError):
            return None
        return JobStages(str(config.hydra.runtime.choices.stage), blocks)


def composer_of(arguments: Sequence[str]) -> Composer:
    """The composer for a sweep.

    Args:
        arguments: The arguments of `train`: flags of Hydra, and overrides.
    """
    flags = get_args_parser().parse_known_args(list(arguments))[0]
    path = create_config_search_path("pkg://lightning_rlhf.conf")
    if flags.config_dir:
        path.prepend("command-line", Path(flags.config_dir).absolute().as_uri(), SearchPathQuery(provider="schema"))
    return Composer(ConfigLoaderImpl(path), flags.config_name or "train")
