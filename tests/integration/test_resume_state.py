"""A killed run that goes on from a checkpoint in the middle of an epoch leaves what a whole one leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from resuming import differences, killed_and_resumed, left_by, run

from lightning_rlhf.callbacks import EMA, AdaptiveKL, RolloutMetrics
from lightning_rlhf.callbacks.sample_table import SampleTable


def extra(stage: str) -> list[Callback]:
    """Callbacks with a state of their own."""
    return [
        EMA(stage, decay=0.9),
        *([AdaptiveKL(0.1), RolloutMetrics(), SampleTable(every=1)] if stage == "ppo" else []),
    ]


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
@pytest.mark.parametrize("step", [1, 5])
def test_a_run_killed_within_an_epoch_leaves_the_state_and_rows_of_a_whole_one(
    stage: str, step: int, parts: Callable, tmp_path: Path
) -> None:
    def build() -> tuple:
        return parts(stage)

    whole = run(build, tmp_path / "whole", *extra(stage))
    rest = killed_and_resumed(build, tmp_path / "killed", step, lambda: extra(stage))
    assert rest == whole[step:]
    assert differences(left_by(tmp_path / "whole"), left_by(tmp_path / "killed")) == []
    if stage == "ppo":
        samples = [(tmp_path / name / "samples.jsonl").read_text(encoding="utf-8") for name in ("whole", "killed")]
        assert samples[0]
        assert samples[0] == samples[1]
