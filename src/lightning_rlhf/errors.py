"""Errors that are meant for the user, and the checks that raise them."""

from collections.abc import Iterable
from importlib.util import find_spec


class UserError(ValueError):
    """A mistake that the user can mend: the message names what, its value, and the remedy.

    The command line prints it as one message, without a traceback, and exits with code 2.
    """


def raise_problems(problems: Iterable[str]) -> None:
    """Raises all problems as one error, so that a user mends them in one go.

    Args:
        problems: One line each; empty means that all is well.

    Raises:
        UserError: If there is at least one problem.
    """
    lines = list(problems)
    if lines:
        raise UserError("\n".join(lines))


def require(module: str, extra: str, wanted_by: str) -> None:
    """Checks that an optional dependency is installed, where it is needed and not before.

    Args:
        module: Name of the module to import.
        extra: The extra of this package that brings it.
        wanted_by: What the user asked for, as they wrote it, such as `logger=tensorboard`.

    Raises:
        UserError: If the module is missing; names the line that installs it.
    """
    if find_spec(module) is None:
        raise UserError(f"{wanted_by} needs the '{extra}' extra: pip install 'lightning-rlhf[{extra}]'")
