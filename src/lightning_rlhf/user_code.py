"""Runs code of the user, such as a reward function, and shows the user's own lines if it fails."""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from lightning_rlhf.errors import UserError

_LIBRARIES = (Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")))
_INSTALLED = {"site-packages", "dist-packages"}
_MOST_FRAMES = 6


def import_module(name: str, wanted_by: str) -> ModuleType:
    """Imports a module of the user.

    Args:
        name: Dotted name of the module.
        wanted_by: The setting that names the module, for messages.

    Raises:
        UserError: If the module cannot be found, or its code fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        message = (
            f"{wanted_by}: cannot import {error.name!r}; is it installed, in the current folder, or on PYTHONPATH?"
        )
        raise UserError(message) from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the code of a module may raise anything
        raise UserError(f"{wanted_by}: importing {name!r} fails\n{told(error)}") from error


def place_of(function: Callable[..., object]) -> str:
    """Says in which of the user's files and lines a function is, as ` (file:line)`; nothing if it is in none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({_short(code.co_filename)}:{code.co_firstlineno})" if code and not _is_library(code.co_filename) else ""


def told(error: BaseException) -> str:
    """Describes an error in the user's code: what was raised, and the user's frames, the innermost frame last.

    Frames of this package, of Python and of installed packages are counted instead. If all frames are of that kind, the
    innermost frame is shown.
    """
    frames = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if not _is_library(frame.filename)] or frames[-1:]
    shown = shown[-_MOST_FRAMES:]
    # A syntax error has its place in itself, and not in a frame.
    lines = [line.rstrip() for line in traceback.format_exception_only(error)]
    for frame in shown:
        lines.append(f"  {_short(frame.filename)}:{frame.lineno} in {frame.name}")
        lines += [f"    {frame.line}"] if frame.line else []
    if hidden := len(frames) - len(shown):
        lines.append(f"  ({hidden} more frames, of libraries or further out: HYDRA_FULL_ERROR=1 shows them)")
    return "\n".join(lines)


def _is_library(filename: str) -> bool:
    path = Path(filename)
    if not _INSTALLED.isdisjoint(path.parts):
        return True
    # Code that is frozen into Python has names such as <frozen importlib._bootstrap>.
    return filename.startswith("<frozen") or any(path.is_relative_to(folder) for folder in _LIBRARIES)


def _short(filename: str) -> str:
    """The path of a file, relative to the current folder if it lies there."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename
