"""Whole runs of PPO with vLLM in the process that trains."""

from pathlib import Path

import pytest
from runs import COMPARED, IN_PROCESS, PPO, TWO_PROCESSES, finished

Metrics = dict[str, list[float]]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """The metrics of full fine-tuning in one process."""
    return finished(tmp_path_factory.mktemp("full"), *PPO, *IN_PROCESS)


def check_engine(found: Metrics) -> None:
    """Checks that each of three rollouts was sampled with the weights that the updates have made."""
    mismatch, ratios, kl = (found[name] for name in ("rollout/sampler_mismatch", "train/importance_max", "rollout/kl"))
    assert len(mismatch) == len(ratios) == len(kl) == 3
    assert max(mismatch) < 1e-4
    assert all(1 <= ratio < 1.001 for ratio in ratios)
    assert abs(kl[2]) > 100 * abs(kl[0]), "the updates must move the actor"


def test_three_iterations_sample_with_the_weights_of_each_update(full: Metrics) -> None:
    check_engine(full)


@pytest.mark.parametrize("more", [["adapter=lora"], ["adapter=lora", "roles=shared"]], ids=["separate", "shared"])
def test_an_adapter_samples_with_the_weights_of_each_update(more: list[str], tmp_path: Path) -> None:
    check_engine(finished(tmp_path, *PPO, *IN_PROCESS, *more))


def test_two_processes_with_an_engine_each_have_the_numbers_of_one(full: Metrics, tmp_path: Path) -> None:
    two = finished(tmp_path, *PPO, *IN_PROCESS, *TWO_PROCESSES)
    check_engine(two)
    for name in COMPARED:
        assert two[name] == pytest.approx(full[name], rel=1e-3, abs=1e-5), name
