"""The registry of mutations fits the present code and tests; `make mutants` runs the mutations."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutate import ROOT, Mutation, registry

MUTATIONS = registry()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.item}: {Path(mutation.file).stem}")
def test_a_mutation_applies_and_its_tests_are_there(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.new != mutation.old
    if mutation.file.endswith(".py"):
        compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name.partition('[')[0]}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
def test_the_parameters_of_the_tests_are_there_too() -> None:
    named = {test for mutation in MUTATIONS for test in mutation.tests}
    options = ["--collect-only", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    files = sorted({test.partition("::")[0] for test in named})
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert named - set(collected) - {test.partition("[")[0] for test in collected} == set()


def test_the_documentation_has_every_item_and_names_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
    checklist = page.partition("## The checklist")[2].partition("\n#")[0]
    items = re.findall(r"^\| (\d+) \|", checklist, re.MULTILINE)
    assert items == [str(number) for number in range(1, 36)]
    assert set(items) - {mutation.item for mutation in MUTATIONS} == set()
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in tests, name


def test_no_mutation_is_twice_in_an_item() -> None:
    assert len({(mutation.item, mutation.file, mutation.old, mutation.new) for mutation in MUTATIONS}) == len(MUTATIONS)
