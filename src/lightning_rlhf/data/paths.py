"""What a path to data names: a file, a folder, or a data set of the hub."""

from importlib import resources
from pathlib import Path

from lightning_rlhf.data.folders import SUFFIXES, folder_splits
from lightning_rlhf.data.hub import is_saved
from lightning_rlhf.errors import UserError

_PATH_STARTS = ("/", "./", "../", "~")
_PACKAGE_SCHEME = "pkg://"


def as_path(path: str) -> Path:
    """Returns the path that a text names, whether there is such a file or not.

    Raises:
        UserError: If it cannot be looked up: it is too long, lies in a folder that is closed to this user, or begins
            with the home of an unknown user.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
    except (OSError, RuntimeError) as error:
        raise UserError(f"data '{path[:200]}' cannot be looked up: {error}") from error
    return found


def local_file(path: str) -> Path | None:
    """Returns the file that a path names; None if it is a folder, or the name of a Hugging Face data set.

    Raises:
        UserError: If there is no such file.
    """
    if path.startswith(_PACKAGE_SCHEME):
        return _resource(path)
    local = as_path(path)
    if local.is_dir():
        return None
    # A link to nothing is reported when it is read.
    if local.exists() or local.is_symlink():
        return local
    if path.startswith(_PATH_STARTS) or path.lower().endswith(SUFFIXES):
        raise UserError(f"data file '{path}' does not exist (looked at {local.absolute()})")
    return None


def is_local(path: str, config_name: str | None = None) -> bool:
    """Whether a path names data on this machine, and not a data set of the hub.

    Args:
        path: The path.
        config_name: The configuration of a data set that has several; see `folder_splits`.

    Raises:
        UserError: If there is no such file, or the folder holds no data.
    """
    folder = as_path(path)
    if folder.is_dir() and not is_saved(folder):
        folder_splits(folder, config_name)
    return folder.is_dir() or local_file(path) is not None


def _resource(path: str) -> Path:
    package, _, name = path.removeprefix(_PACKAGE_SCHEME).partition("/")
    try:
        resource = resources.files(package).joinpath(name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        raise UserError(f"data file '{path}': there is no installed package '{package}'") from error
    if not name or not resource.is_file():
        raise UserError(f"data file '{path}' does not exist (looked at {resource})")
    # Installed packages are not zipped, so the resource is a file.
    return Path(str(resource))
