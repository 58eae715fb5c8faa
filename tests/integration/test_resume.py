"""A run that goes on from a checkpoint leaves behind what one leaves that was never stopped."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from support import trainer

from lightning_rlhf import TextReward
from lightning_rlhf.hooks import RLHFCallback

GOLD = TextReward(lambda prompts, responses: [len(response) / 100 for response in responses])
EVALUATE: dict[str, Any] = {"limit_val_batches": 1.0, "num_sanity_val_steps": -1}


class Evaluations(RLHFCallback):
    """Keeps the iterations of all evaluations."""

    def __init__(self) -> None:
        self.iterations: list[int] = []

    def on_evaluation_end(self, trainer: Any, module: Any, iteration: int, samples: list[dict[str, Any]]) -> None:
        self.iterations.append(iteration)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo"])
def test_the_state_before_training_belongs_to_the_checkpoint(stage: str, parts: Callable, tmp_path: Path) -> None:
    def run(name: str, *callbacks: Any, checkpoint: Path | None = None, **settings: Any) -> tuple[Any, list[int]]:
        evaluations, logger = Evaluations(), CSVLogger(tmp_path / name, "", "")
        fitted = trainer(tmp_path, evaluations, *callbacks, logger=logger, **EVALUATE, **settings)
        module, data = parts(stage, gold=GOLD)
        if stage == "sft":
            data.prompts_held_out = str(tmp_path / "prompts.jsonl")
        fitted.fit(module, data, ckpt_path=checkpoint)
        return module, evaluations.iterations

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "My kettle leaks."}\n{"prompt": "My door is stuck."}\n')
    whole, iterations = run("whole", max_epochs=3)
    assert iterations == [0, 1, 2, 3]
    run("first", ModelCheckpoint(tmp_path, "last"), max_epochs=2, enable_checkpointing=True)
    resumed, iterations = run("rest", max_epochs=3, checkpoint=tmp_path / "last.ckpt")
    assert iterations == [3]
    assert resumed.answers.before == whole.answers.before
    assert "-1" not in [row["epoch"] for row in rows_of(tmp_path / "rest")]
    rates = [[row["val/gold_win_rate"] for row in rows_of(tmp_path / name)] for name in ("rest", "whole")]
    rest, expected = ([rate for rate in each if rate][-1] for each in rates)
    assert rest == expected != "0.5"
