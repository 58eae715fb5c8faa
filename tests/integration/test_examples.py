"""The examples of the Python interface run as they stand, and learn."""

import importlib
import math

import own_callback
import own_data
import own_loop
import own_reward
import pytest

from lightning_rlhf.ops.advantages import ESTIMATORS


def test_rows_in_memory_are_learnt_by_heart() -> None:
    # Only the color differs between the answers, and the prompt names it.
    assert own_data.main() < math.log(5)


@pytest.mark.slow
def test_a_reward_that_reads_a_column_rises() -> None:
    assert own_reward.main(iterations=20) > own_reward.main(iterations=1) + 0.02


@pytest.mark.slow
def test_an_estimator_with_a_setting_raises_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests go through all estimators, so its entry, which importing the example makes, is removed at the end.
    monkeypatch.setitem(ESTIMATORS, "quantile", ESTIMATORS["gae"])
    own_estimator = importlib.import_module("own_estimator")
    assert own_estimator.main(iterations=20) > own_estimator.main(iterations=1) + 0.05


def test_a_loop_of_ones_own_raises_the_score() -> None:
    means = own_loop.main()
    assert sum(means[-5:]) > sum(means[:5])


def test_a_callback_sees_the_rollouts_and_stops_at_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    # The first mean is above 0, so the target is reached at once.
    callback = own_callback.main(target=0.0)
    assert len(callback.best) == 1
    assert f"best response {callback.best[0]!r}" in capsys.readouterr().out
