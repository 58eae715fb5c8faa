"""Settings of all tests: no network, one thread, the same examples of property tests each time, a separate cache."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import atexit
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# A shell that starts the tests in the background makes them ignore Ctrl-C, and nohup the end of a terminal; some tests
# send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("suite")

# Fixtures that several tests share use this cache instead of that of the user who runs the tests.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets-of-tests-")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets each test prepare its data again, since some tests change the code that prepares them."""
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))
    return folder


# This hook runs first, since pytest-xdist reads the marks in its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the tests of a file in one process, since they share trained models, unless they have a group already."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
