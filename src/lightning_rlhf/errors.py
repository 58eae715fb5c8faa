"""The error for mistakes of the user, and the checks that raise it."""

from collections.abc import Iterable
from importlib.util import find_spec


class UserError(ValueError):
    """A mistake that the user can correct. The message names the setting, its value, and the remedy.

    The command line prints the message without a traceback, and exits with code 2.
    """


class NotFiniteError(UserError):
    """The numbers or weights of a run are NaN or infinite. The run has diverged."""


def raise_problems(problems: Iterable[str]) -> None:
    """Raises all problems as one error, so that the user can correct them together.

    Args:
        problems: One line for each problem; nothing is raised if there are none.

    Raises:
        UserError: If there is at least one problem.
    """
    lines = list(problems)
    if lines:
        raise UserError("\n".join(lines))


def older_version(missing: KeyError) -> UserError:
    """The error for a checkpoint without an entry that this version saves.

    Args:
        missing: The error of looking up the entry.
    """
    return UserError(
        f"an older version of this package wrote the checkpoint, which has no {missing}: resume with that version, or "
        "start a new run from the weights of the checkpoint (lightning-rlhf export checkpoint=FILE)"
    )


def require(module: str, extra: str, wanted_by: str) -> None:
    """Checks that an optional dependency is installed. Call it only where the dependency is needed.

    Args:
        module: Name of the module to import.
        extra: The extra of this package that installs the module.
        wanted_by: The setting that needs the module, as the user wrote it, such as `logger=tensorboard`.

    Raises:
        UserError: If the module is missing. The message names the command that installs it.
    """
    if find_spec(module) is None:
        raise UserError(f"{wanted_by} needs the '{extra}' extra: pip install 'lightning-rlhf[{extra}]'")
