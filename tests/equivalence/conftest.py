"""What every run is compared with."""

from pathlib import Path

import pytest
from compare import launch


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages in one process."""
    folder = tmp_path_factory.mktemp("single")
    launch(folder, "single", f"start={folder}")
    return folder
