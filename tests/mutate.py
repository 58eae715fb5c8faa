"""Proves that tests can fail: puts known mistakes into a copy of the code, one at a time, and runs the tests named.

python tests/mutate.py             runs all mutations of tests/mutations.toml
python tests/mutate.py 15 22       runs the mutations of some items
python tests/mutate.py --list      lists the mutations

A mutant that survives one of its tests is printed, and the exit code is 1.
"""

import argparse
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import warm
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
REGISTRY = Path(__file__).with_name("mutations.toml")


@dataclass(frozen=True)
class Mutation:
    """A mistake, and the tests that detect it."""

    item: str
    """Number in docs/correctness.md, or a name."""
    file: str
    """Path from the root of the repository."""
    old: str
    """Text that occurs exactly once in the file."""
    new: str
    """Text that replaces it."""
    tests: tuple[str, ...]
    """Node ids of tests; each of them must fail."""
    why: str = ""
    """Description of the mistake, if the code alone does not show it."""

    def apply(self, root: Path) -> None:
        """Writes the mistake into the file below a folder."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"item {self.item}: {self.old!r} occurs {text.count(self.old)} times in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def registry() -> list[Mutation]:
    """Reads all mutations in the order of the file."""
    rows = tomllib.loads(REGISTRY.read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**row | {"item": str(row["item"]), "tests": tuple(row["tests"])}) for row in rows]


def copy_to(folder: Path) -> Path:
    """Copies the repository."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
    # With its links: src/ has one to each of the package's folders at the top.
    shutil.copytree(ROOT, tree, ignore=ignored, symlinks=True)
    return tree


def environment(tree: Path) -> dict[str, str]:
    """The environment in which the package of the copy comes before an installed one."""
    changed = {
        "PYTHONPATH": str(tree / "src"),
        # If a file changes twice within a second, Python would run a stale .pyc instead.
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        # pytest would cut off its last lines on a narrow terminal.
        "COLUMNS": "1000",
    }
    return {**os.environ, **changed}


def run_tests(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Runs tests of the copy in a process that has imported the libraries, but nothing of this package.

    Returns:
        The exit code and the output, which ends with a line for each test that fails.
    """
    options = ["-p", "no:cacheprovider", "--tb=no", "-rfE"]
    process = warm.start(
        ["-m", "pytest", *options, *dict.fromkeys(tests)],
        cwd=tree,
        env=environment(tree),
        merged=True,
        imported=warm.LIBRARIES,
    )
    output, _ = process.communicate()
    assert process.returncode is not None
    return process.returncode, output


def check_copy(tree: Path, mutations: list[Mutation]) -> None:
    """Checks that Python imports the copy, and that its tests pass without a mistake."""
    modules = ("lightning_rlhf", "lightning_rlhf.callbacks", "lightning_rlhf.conf")
    code = f"import {', '.join(modules)}, sys; print(*(sys.modules[m].__file__ for m in {modules}))"
    (tree / "shown.py").write_text(code, encoding="utf-8")
    process = warm.start(["shown.py"], cwd=tree, env=environment(tree), merged=True, imported=warm.LIBRARIES)
    shown, _ = process.communicate()
    if process.returncode or not all(place.startswith(str(tree)) for place in shown.split()):
        raise SystemExit(f"Python does not import the copy in {tree}: {shown}")
    code, output = run_tests(tree, (test for mutation in mutations for test in mutation.tests))
    if code:
        raise SystemExit(f"tests fail without any mutation:\n{output[-3000:]}")


def survived(tree: Path, mutation: Mutation) -> list[str]:
    """Returns the names of the tests that do not fail in spite of the mistake, and restores the copy."""
    path = tree / mutation.file
    original = path.read_bytes()
    mutation.apply(tree)
    code, output = run_tests(tree, mutation.tests)
    path.write_bytes(original)
    # Exit code 1 means that tests ran and some failed. A mutant that cannot run at all proves nothing.
    if code > 1 or "NameError" in output:
        raise SystemExit(f"item {mutation.item}, {mutation.new!r}:\n{output[-3000:]}")
    return [name for name in mutation.tests if not re.search(rf"^FAILED {re.escape(name)}[\[ ]", output, re.M)]


def show(mutations: list[Mutation], results: list[str]) -> None:
    """Prints a table of mutations and results."""
    table = Table("item", "file", "mistake", "tests", "result", box=None, header_style="dim")
    for mutation, result in zip(mutations, results, strict=True):
        names = "\n".join(test.partition("::")[2] for test in mutation.tests)
        row = (mutation.item, Path(mutation.file).name, mutation.why or mutation.new, names, result)
        table.add_row(*map(escape, row))
    # A log file has no width, so rows need not be folded to that of a terminal.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def main() -> None:
    """Runs the mutations that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", help="numbers or names of items; all by default")
    parser.add_argument("--list", action="store_true", help="print the mutations and run nothing")
    arguments = parser.parse_args()
    mutations = [mutation for mutation in registry() if not arguments.items or mutation.item in arguments.items]
    if unknown := set(arguments.items) - {mutation.item for mutation in mutations}:
        parser.error(f"there is no item {', '.join(sorted(unknown))}")
    if arguments.list:
        show(mutations, [""] * len(mutations))
        return
    num_trees = min(os.cpu_count() or 1, len(mutations), 4)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(num_trees) as pool:
        trees = [copy_to(Path(folder) / str(number)) for number in range(num_trees)]
        check_copy(trees[0], mutations)
        free = SimpleQueue[Path]()
        for tree in trees:
            free.put(tree)

        def alive_in_a_free_tree(mutation: Mutation) -> list[str]:
            tree = free.get()
            try:
                return survived(tree, mutation)
            finally:
                free.put(tree)

        alive = list(tqdm(pool.map(alive_in_a_free_tree, mutations), total=len(mutations)))
    show(mutations, [f"survives {' '.join(names)}" if names else "killed" for names in alive])
    num_survivors = sum(map(bool, alive))
    print(f"{len(mutations)} mutations, {num_survivors} survive")
    sys.exit(num_survivors > 0)


if __name__ == "__main__":
    main()
