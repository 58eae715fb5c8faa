"""Tests that share what they have trained run in one process, so that nothing is trained twice, or twice at a time."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_the_tests_of_a_file_are_one_group(request: pytest.FixtureRequest) -> None:
    # pytest-xdist writes the group behind the name. Where it could not, it would spread the tests without a word.
    assert request.node.nodeid.endswith(f"@{request.node.path}")
