"""What every run is compared with, and which tests share runs."""

from pathlib import Path

import pytest
from cases import CASES
from compare import launch
from support import once


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in one process."""
    return once(tmp_path_factory, "single", lambda folder: launch(folder, "single", f"start={folder}"))


# Before the hook for all tests, which keeps those of a file together.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the tests of a strategy to one process: they share its runs, and the other strategies need not wait."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or item.path.parent != Path(__file__).parent:
            continue
        for name in CASES.keys() & {str(value) for value in callspec.params.values()}:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}"))
