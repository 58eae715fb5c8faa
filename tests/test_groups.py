"""Tests that share trained models run in one process, so that no model is trained twice."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_the_tests_of_a_file_are_one_group(request: pytest.FixtureRequest) -> None:
    # pytest-xdist appends the group to the name. If it ignored the group, it would silently spread the tests.
    assert request.node.nodeid.endswith(f"@{request.node.path}")
