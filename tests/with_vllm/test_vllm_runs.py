"""Whole runs of PPO with vLLM in the process that trains."""

from pathlib import Path

import pytest
from runs import COMPARED, IN_PROCESS, PPO, TWO_PROCESSES, finished

ADAPTERS = {"full": [], "adapter": ["adapter=lora"], "shared": ["adapter=lora", "roles=shared"]}


@pytest.mark.parametrize("more", ADAPTERS.values(), ids=ADAPTERS)
def test_three_iterations_sample_with_the_weights_of_each_update(more: list[str], tmp_path: Path) -> None:
    found = finished(tmp_path, *PPO, *IN_PROCESS, *more)
    mismatch, ratios, kl = (found[name] for name in ("rollout/sampler_mismatch", "train/importance_max", "rollout/kl"))
    assert len(mismatch) == len(ratios) == len(kl) == 3
    assert max(mismatch) < 1e-4
    assert all(1 <= ratio < 1.001 for ratio in ratios)
    assert abs(kl[2]) > 100 * abs(kl[0]), "the updates must move the actor"


def test_two_processes_with_an_engine_each_have_the_numbers_of_one(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", *PPO, *IN_PROCESS)
    two = finished(tmp_path / "two", *PPO, *IN_PROCESS, *TWO_PROCESSES)
    for name in COMPARED:
        assert len(one[name]) == 3, name
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
