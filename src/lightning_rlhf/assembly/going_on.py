"""Goes on with a run: `train resume=RUN` takes all other overrides from the folder of the run.

`resume=auto` is `resume=FOLDER` if the run in the folder `hydra.run.dir=FOLDER` has begun, and nothing otherwise.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.quoting import override
from lightning_rlhf.assembly.run_files import code_in, read_overrides
from lightning_rlhf.errors import UserError
from lightning_rlhf.saving import appearing

AUTO = "auto"
_OVERRIDES = Path(".hydra") / "overrides.yaml"
_CONFIG = Path(".hydra") / "config.yaml"


def goes_on_in(config: DictConfig, folder: Path) -> bool:
    """Whether a run goes on in the folder of the run that it resumes.

    Raises:
        UserError: If `resume` cannot be a path.
    """
    _check_path(config.resume)
    return config.resume is not None and Path(config.resume).expanduser().resolve() == folder.resolve()


def continued(config: DictConfig, folder: Path) -> DictConfig:
    """The configuration of a run that goes on with what it has left in its folder if it began earlier.

    That is a job of a sweep, or one with `resume=auto`. If it has finished, it does nothing then.

    Args:
        config: The composed configuration. It is not changed.
        folder: Folder of the run.
    """
    if config.resume not in (None, AUTO):
        return config
    config = config.copy()
    config.resume = str(folder) if _has_begun(folder) else None
    return config


def with_earlier_overrides(words: Sequence[str]) -> list[str]:
    """Completes a command line that has `resume=RUN` by the overrides of that run, and makes it go on in its folder.

    Overrides on the command line replace those of the run. Together with an option of a group, such as `reward`, they
    replace the settings of the group's former option. The command line stays as it is if it names no run folder, or
    one without overrides, or if it names the folder to write to itself.

    Args:
        words: The command line without the program.

    Raises:
        UserError: If the overrides of the run would run code that the command line does not name, or `resume=auto` is
            given without the folder of the run.
    """
    if not any(_key(word) == "resume" for word in words):
        return list(words)
    try:
        flags, given = _split(words)
    except HydraException:
        # Hydra will refuse the command line itself.
        return list(words)
    resume = next(override for override in given if override.key_or_group == "resume")
    _check_path(resume.value())
    if resume.value() == AUTO:
        return with_earlier_overrides(_without_auto(words, flags, given))
    folder = Path(str(resume.value())).expanduser()
    if not (folder / _OVERRIDES).is_file():
        return list(words)
    earlier = read_overrides(folder / _OVERRIDES)
    kept = [override for override in earlier if not _replaced(override, given, earlier)]
    if unnamed := [str(override.input_line) for override in kept if code_in(override)]:
        raise UserError(
            f"{folder / _OVERRIDES}: {', '.join(unnamed)}: names code, or values outside of the run; if you trust this "
            f"run, add to the command: {shlex.join(unnamed)}"
        )
    first = _first_resume(folder, earlier)
    here = [override("hydra.run.dir", str(folder)), "hydra.output_subdir=null"]
    own_folder = bool({"-m", "--multirun"} & set(flags)) or any(o.key_or_group == "hydra.run.dir" for o in given)
    return [
        *flags,
        *([] if own_folder else here),
        *(str(override.input_line) for override in kept),
        *(_as_addition(override, earlier, given) for override in given if not _cancels(override, earlier)),
        *first,
    ]


def _without_auto(words: Sequence[str], flags: Sequence[str], given: Sequence[Override]) -> list[str]:
    """The command line with the folder of the run in place of `auto`, or without `resume` if the run has not begun."""
    others = [word for word in words if _key(word) != "resume"]
    if {"-m", "--multirun"} & set(flags):
        # Each job of a sweep goes on with what it has left.
        return others
    folders = [str(override.value()) for override in given if override.key_or_group == "hydra.run.dir"]
    if not folders or "${" in folders[-1]:
        raise UserError(
            f"resume={AUTO}: the run needs a folder that is the same each time it is started: add hydra.run.dir=FOLDER"
        )
    folder = Path(folders[-1])
    if not _has_begun(folder):
        return others
    return [*(word for word in others if _key(word) != "hydra.run.dir"), override("resume", str(folder))]


def _check_path(resume: object) -> None:
    if not isinstance(resume, str | None):
        raise UserError(
            f"resume={resume}: expected the folder of a run, a checkpoint file, or {AUTO}; a folder of this name is "
            f"resume=./{resume}"
        )


def _has_begun(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def save_command(folder: Path, config: DictConfig, overrides: Sequence[str]) -> None:
    """Writes the overrides and the configuration of a run to its folder, as Hydra does for a run that begins.

    Args:
        folder: Folder of the run.
        config: The composed configuration.
        overrides: All overrides, those of the earlier command included.
    """
    plain = [word for word in overrides if _key(word) != "resume"]
    for name, content in {_OVERRIDES: OmegaConf.create(plain), _CONFIG: config}.items():
        with appearing(folder / name) as partial:
            OmegaConf.save(content, partial)


def command_to_go_on(folder: Path, program: Sequence[str], words: Sequence[str]) -> str:
    """The command line that goes on with a run, to be copied into a shell.

    Args:
        folder: Folder of the run.
        program: The words that start the program.
        words: The command line of the run without the program. Overrides that the run folder does not hold yet, or
            that are read from there only if the user names them, are repeated.
    """
    flags, overrides = _split(words)
    file = folder / _OVERRIDES
    held = {str(override.input_line) for override in read_overrides(file)} if file.is_file() else set()
    repeated = [
        str(override.input_line)
        for override in overrides
        if override.key_or_group != "resume"
        and not override.is_hydra_override()
        and (override.input_line not in held or code_in(override))
    ]
    kept_flags = [flag for flag in flags if flag not in ("-m", "--multirun")]
    return shlex.join([*program, *kept_flags, override("resume", str(folder)), *repeated])


def _split(words: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Separates Hydra's flags with their values from the overrides."""
    parser = OverridesParser.create()
    overrides = [word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    return [word for word in words if word not in overrides], [parser.parse_override(word) for word in overrides]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _replaced(override: Override, given: Sequence[Override], earlier: Sequence[Override]) -> bool:
    """Whether the command line replaces an override of the run, or the option of the group that has this setting."""
    return any(
        (other.key_or_group, other.package) == (override.key_or_group, override.package)
        or (override.key_or_group.startswith(f"{other.key_or_group}.") and _chooses_anew(other, earlier))
        for other in given
    )


def _chooses_anew(given: Override, earlier: Sequence[Override]) -> bool:
    """Whether an override sets a whole group or node to something other than the run had."""
    return not any(o.key_or_group == given.key_or_group and o.value() == given.value() for o in earlier)


def _cancels(given: Override, earlier: Sequence[Override]) -> bool:
    """Whether an override removes a setting that only an override of the run has added."""
    return given.is_delete() and any(
        (o.is_add() or o.is_force_add()) and o.key_or_group == given.key_or_group for o in earlier
    )


def _as_addition(one: Override, earlier: Sequence[Override], given: Sequence[Override]) -> str:
    """The words of an override, with the plus sign that the run needed to set the same key, if nobody else adds it."""
    word = str(one.input_line)
    before, now = (any(o.is_add() and o.key_or_group == one.key_or_group for o in some) for some in (earlier, given))
    return f"+{word}" if before and not now and not word.startswith(("+", "~")) else word


def _first_resume(folder: Path, earlier: Sequence[Override]) -> list[str]:
    """The run that this run went on with, if it was stopped before it left anything to go on from."""
    begun = any(folder.rglob("last.ckpt")) or any(folder.rglob("model"))
    return [str(o.input_line) for o in earlier if o.key_or_group == "resume" and not begun]
