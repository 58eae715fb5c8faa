"""What is built holds what is on disk, and runs where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from support import TINY

from lightning_rlhf.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "lightning_rlhf": ROOT / "src" / "lightning_rlhf",
    "lightning_rlhf/callbacks": ROOT / "callbacks",
    "lightning_rlhf/conf": ROOT / "conf",
}
HEAVY = {"torch", "lightning", "transformers", "hydra"}


def on_disk() -> Iterator[str]:
    """Every file of the package, named by its place in an installation."""
    for place, folder in FOLDERS.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{place}/{path.relative_to(folder).as_posix()}"


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as from a plain shell: PYTHONPATH would put a checkout before what is installed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


def checked(*command: str | Path, cwd: Path) -> str:
    done = call(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that comes of the source distribution: both must be whole."""
    # A copy, since setuptools leaves build/ behind, and would take stale files from one that it finds.
    tree = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "outputs", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    checked(sys.executable, "-m", "build", "--no-isolation", cwd=tree)
    return next((tree / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with the wheel in it, which borrows our dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    checked(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # Paths that stand in a .pth file come after the environment's own, and the .pth files found there, such as the
    # one of an editable installation of this package, are not read.
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    own = checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(own) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"


def test_pyproject_lists_every_package_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name.removesuffix("/__init__.py").replace("/", ".") for name in on_disk() if name.endswith("__init__.py")}
    assert sorted(listed) == sorted(found)


def test_callbacks_under_a_second_name_is_an_error_that_names_the_first() -> None:
    done = call(sys.executable, "-c", "import callbacks", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: import 'lightning_rlhf.callbacks', not 'callbacks'")


def test_a_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(on_disk())


def test_an_installed_wheel_does_not_read_the_checkout(installed: Path, tmp_path: Path) -> None:
    packages = [name.replace("/", ".") for name in FOLDERS]
    code = f"from importlib.util import find_spec; print(*[find_spec(name).origin for name in {packages}], sep='\\n')"
    files = checked(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(files) == 3
    assert all(Path(file).is_relative_to(installed.parent) for file in files)


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    checked(installed / "lightning-rlhf", "train", "experiment=demo", *TINY, cwd=tmp_path)
    (record,) = tmp_path.glob("outputs/pipeline/*/result.json")
    result = json.loads(record.read_text())
    assert result["status"] == "finished"
    assert set(result["stages"]) == {"sft", "reward", "ppo"}
    assert Path(result["model_dir"]).is_relative_to(tmp_path)
    assert record.with_name("report.html").is_file()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["-m", "lightning_rlhf.cli"], "usage: lightning-rlhf COMMAND"),
        (["train.py"], "usage: lightning-rlhf train [GROUP=OPTION"),
    ],
)
def test_a_checkout_runs_without_the_console_script(command: list[str], expected: str) -> None:
    assert expected in checked(sys.executable, *command, "--help", cwd=ROOT)


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_versions_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = f"import sys; from lightning_rlhf.cli import main; sys.argv[1:] = {words}; main(); print(*sys.modules)"
    printed = checked(sys.executable, "-c", code, cwd=tmp_path)
    assert HEAVY.isdisjoint(printed.splitlines()[-1].split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_file_with_a_main(name: str) -> None:
    file = ROOT / "src" / "lightning_rlhf" / "cli" / f"{name.replace('-', '_')}.py"
    assert "def main() -> None:" in file.read_text()
