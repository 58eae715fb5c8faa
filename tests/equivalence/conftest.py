"""The run that all others are compared with, and the groups of tests that share runs."""

from pathlib import Path

import pytest
from cases import CASES
from compare import launch
from support import once


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in one process."""
    return once(tmp_path_factory, "single", lambda folder: launch(folder, "single", f"start={folder}"))


# This hook runs before the hook for all tests, which keeps the tests of a file together.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the tests of a strategy in one process, since they share its runs; other strategies need not wait."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or item.path.parent != Path(__file__).parent:
            continue
        for name in CASES.keys() & {str(value) for value in callspec.params.values()}:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}"))
