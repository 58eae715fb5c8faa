"""Two runs that differ in their engine alone, or in who says the old log-probs, end with the same numbers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Watch, trainer
from torch import Tensor
from torch.testing import assert_close

from lightning_rlhf.experience import Rollout
from lightning_rlhf.rollout import collect
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine

# Five places for 16 responses, so that responses wait for others to end.
NATIVE = partial(NativeEngine, max_rows=5, prefill_tokens=64)
PADDED = partial(PaddedEngine, micro_batch_size=8)
Run = tuple[list[Rollout], dict[str, Tensor]]


@pytest.fixture
def trained(parts: Callable, tmp_path: Path) -> Callable[..., Run]:
    """Trains with an engine, 50 iterations unless it is told otherwise."""

    def run(engine: Any, iterations: int = 50) -> Run:
        watch = Watch()
        module, data = parts("ppo", engine=engine)
        trainer(tmp_path, watch, max_epochs=iterations).fit(module, data)
        return watch.rollouts, module.state_dict()

    return run


def compare(rollouts: list[Rollout], others: list[Rollout], num: int, **tolerance: float) -> None:
    """Checks that all rollouts are the same up to rounding."""
    assert len(rollouts) == num
    for rollout, other in zip(rollouts, others, strict=True):
        assert rollout.responses == other.responses
        assert_close(rollout.scores, other.scores, **tolerance)
        assert_close(rollout.kl, other.kl, **tolerance)
    lengths = [len(text) for rollout in rollouts for text in rollout.responses]
    assert len({*lengths}) > 5, "responses must have different lengths"
    assert float(rollouts[-1].kl.abs().mean()) > 0.01, "the actor must have moved away from its reference"


@pytest.mark.slow
def test_fifty_iterations_with_either_engine_end_with_the_same_numbers(
    trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Old log-probs come from the scorer, so the update does not see the engine's rounding.
    monkeypatch.setattr(collect, "may_stand_in", lambda *_: False)
    rollouts, weights = trained(NATIVE)
    others, other_weights = trained(PADDED)
    compare(rollouts, others, 50)
    assert all(torch.equal(weights[name], weight) for name, weight in other_weights.items())


@pytest.mark.slow
def test_a_run_with_the_samplers_numbers_goes_like_one_with_the_scorers(
    trained: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts, weights = trained(NATIVE, 10)
    twins = [trained(PADDED, 10)]
    monkeypatch.setattr(collect, "may_stand_in", lambda *_: False)
    twins.append(trained(NATIVE, 10))
    assert {rollout.metrics["rescored_rate"] for rollout in rollouts} == {1 / 16}
    assert {rollout.metrics["rescored_rate"] for rollout in twins[1][0]} == {1.0}
    # Each step passes rounding on and adds to it, until rounding decides which token is drawn. After ten iterations the
    # KL of single tokens is 1e-5 apart, and weights are 5e-6 apart.
    for others, other_weights in twins:
        compare(rollouts, others, 10, atol=1e-4, rtol=0)
        entropies = [[rollout.metrics["entropy"] for rollout in run] for run in (rollouts, others)]
        assert entropies[0] == pytest.approx(entropies[1], abs=1e-5)
        for name, weight in other_weights.items():
            assert_close(weights[name], weight, atol=5e-5, rtol=0)
