"""Two runs that differ in their rollout engine alone, and end with the same numbers."""

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
from lightning_rlhf.rollout.engines.native import NativeEngine
from lightning_rlhf.rollout.engines.padded import PaddedEngine


@pytest.mark.slow
def test_fifty_iterations_with_either_engine_end_with_the_same_numbers(parts: Callable, tmp_path: Path) -> None:
    def trained(engine: Any) -> tuple[list[Rollout], dict[str, Tensor]]:
        watch = Watch()
        module, data = parts("ppo", engine=engine)
        trainer(tmp_path, watch, max_epochs=50).fit(module, data)
        return watch.rollouts, module.state_dict()

    # Five places for 16 responses, so that responses wait for others to end.
    rollouts, weights = trained(partial(NativeEngine, max_rows=5, prefill_tokens=64))
    expected, expected_weights = trained(partial(PaddedEngine, micro_batch_size=8))
    assert len(rollouts) == 50
    for rollout, other in zip(rollouts, expected, strict=True):
        assert rollout.responses == other.responses
        assert_close(rollout.scores, other.scores)
        assert_close(rollout.kl, other.kl)
    lengths = [len(text) for rollout in rollouts for text in rollout.responses]
    assert len({*lengths}) > 5, "responses must have different lengths"
    # Old log-probs come from the scorer, so the update does not see the engine's rounding.
    assert all(torch.equal(weights[name], weight) for name, weight in expected_weights.items())
    assert float(rollouts[-1].kl.abs().mean()) > 0.01, "the actor must have moved away from its reference"
