"""The rooms of the package are on floors, and imports point down: a lower floor never imports a higher one."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lightning_rlhf
from lightning_rlhf.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lightning_rlhf"
SETTINGS = ("callbacks", "chat", "data", "rollout")
FLOORS = [
    {"ops", "conf"},
    {
        "checksums",
        "console",
        "disk",
        "errors",
        "experience",
        "hooks",
        "interruption",
        "loopback",
        "process",
        "registry",
        "run_log",
        "saving",
        "seeding",
        "sizes",
        "stages",
        "typechecks",
        "user_code",
        "waiting",
        "yaml_files",
    },
    {"distributed"},
    {"strategies", "models", "data", "chat_models", "rewards", "demo", "randomwalks", "report", "planner"},
    {"rollout"},
    {"modules", "synthesis"},
    {"checks", "benchmark", "evaluation", "chat", "web"},
    {"callbacks"},
    {"assembly"},
    {"cli"},
    {"train"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> Iterator[tuple[str, Path]]:
    """Yields every Python file with its room, which is a folder of the package or a module at its top."""
    for path in SOURCE.rglob("*.py"):
        if path != SOURCE / "__init__.py":  # It only maps public names to their modules.
            yield path.relative_to(SOURCE).parts[0].removesuffix(".py"), path
    for room in ("callbacks", "conf"):
        for path in (ROOT / room).rglob("*.py"):
            yield room, path
    yield "train", ROOT / "train.py"


def imported(path: Path) -> Iterator[str]:
    """Yields the dotted names of everything that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def neighbours() -> dict[str, set[str]]:
    """Returns, for each room, the other rooms that it imports from."""
    found: dict[str, set[str]] = {}
    for room, path in rooms():
        names = [name.split(".") for name in imported(path)]
        found.setdefault(room, set()).update(name[1] for name in names if name[0] == "lightning_rlhf")
    return {room: others - {room} for room, others in found.items()}


def test_every_room_has_a_floor() -> None:
    assert neighbours().keys() <= FLOOR_OF.keys()


def test_contributing_shows_these_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {
        int(floor): {name.removesuffix(".py").rstrip("/") for name in re.findall(r"`([^`]+)`", names)}
        for floor, names in rows
    }
    assert shown == dict(enumerate(FLOORS))


def test_imports_never_point_up() -> None:
    # A name that is in no room is imported from the top of the package, which knows every floor and is for users only.
    top = len(FLOORS)
    upward = {
        f"{room} imports {other}"
        for room, others in neighbours().items()
        for other in others
        if FLOOR_OF.get(other, top) > FLOOR_OF[room]
    }
    assert not upward


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle() -> None:
    TopologicalSorter(neighbours()).prepare()


def test_ops_know_nothing_but_torch() -> None:
    packages = {name.split(".")[0] for path in (SOURCE / "ops").rglob("*.py") for name in imported(path)}
    assert packages - sys.stdlib_module_names == {"torch", "lightning_rlhf"}
    assert not neighbours()["ops"]


def lines(room: str) -> Iterator[tuple[Path, str]]:
    """Yields every line of a room, with its file name and number for the message."""
    for path in (file for name, file in rooms() if name == room):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield path, f"{path.name}:{number}: {line.strip()}"


WITHOUT_STRATEGIES = ["ops", "models", "data", "rewards", "rollout", "modules", "checks", "callbacks"]


@pytest.mark.parametrize("room", [*WITHOUT_STRATEGIES, "distributed"])
def test_only_strategies_name_what_divides_models(room: str) -> None:
    names = re.compile(r"(?i:deepspeed|colossalai|gemini|fsdp|fully_shard)|\bds_[a-z]|ZeRO")
    # One file handles the models that torch itself shards, for all strategies.
    hits = [line for path, line in lines(room) if names.search(line) and path.name != "shards.py"]
    assert not hits


@pytest.mark.parametrize("room", WITHOUT_STRATEGIES)
def test_what_differs_between_strategies_goes_through_phases(room: str) -> None:
    names = re.compile(r"torch\.distributed|isinstance\(.*[Ss]trategy")
    assert not [line for _, line in lines(room) if names.search(line)]


def test_only_commands_know_that_hydra_runs_them() -> None:
    readers = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if any(name.startswith("hydra.core.hydra_config") for name in imported(path))
    }
    assert readers == {"cli"}


def test_no_file_has_two_jobs() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for _, path in rooms()}
    assert not {path.name: length for path, length in lengths.items() if length > 250}
    assert not [path for path in lengths if path.stem in ("utils", "helpers", "misc")]


def test_a_file_of_cli_is_one_command() -> None:
    files = {path.stem for path in (SOURCE / "cli").glob("*.py")} - {
        "__init__",
        "__main__",
        "app",
        "completion",
        "help",
    }
    assert files == {command.replace("-", "_") for command in COMMANDS}
    lengths = {name: len((SOURCE / "cli" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in files}
    assert not {name: length for name, length in lengths.items() if length > 80}


def test_unit_tests_lie_in_folders_that_mirror_the_package() -> None:
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert not [folder for folder in folders if folder != Path("callbacks") and not (SOURCE / folder).is_dir()]


def test_modules_that_texts_name_exist() -> None:
    # Rooms whose names are those of settings, such as data.gold, are left out.
    folders = [path for path in SOURCE.iterdir() if path.is_dir() and path.name not in SETTINGS]
    names = re.compile(rf"`(?:lightning_rlhf\.)?({'|'.join(path.name for path in folders)})\.(?!html)([a-z_0-9]+)\b")
    texts = [*(path for _, path in rooms()), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests").rglob("*.py")]
    named = {(*found, path.name) for path in texts for found in names.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert not [
        (room, module, text)
        for room, module, text in named
        if not ((SOURCE / room / module).is_dir() or (SOURCE / room / f"{module}.py").is_file())
    ]


def test_importing_the_package_imports_neither_torch_nor_lightning() -> None:
    code = "import sys, lightning_rlhf; print(*{'torch', 'lightning', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


@pytest.mark.parametrize("name", lightning_rlhf.__all__)
def test_every_public_name_can_be_had_from_the_top(name: str) -> None:
    assert getattr(lightning_rlhf, name).__name__ == name
