"""The numbers of each logged step: of the whole minibatch, and with the learning rate that the step had."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from support import trainer

from lightning_rlhf.callbacks import StepMetrics
from lightning_rlhf.hooks import RLHFCallback, StepNumbers
from lightning_rlhf.modules.optim import Optim


class Numbers(RLHFCallback):
    """Keeps the numbers of all logged steps."""

    def __init__(self) -> None:
        self.all: list[StepNumbers] = []

    def on_step_numbers(self, trainer: Any, module: Any, numbers: StepNumbers) -> None:
        self.all.append(numbers)


def numbers_of(parts: Callable, folder: Path, stage: str, **settings: Any) -> list[StepNumbers]:
    kept = Numbers()
    module, data = parts(stage, optim=Optim(schedule="linear"))
    trainer(folder, StepMetrics(), kept, **{"log_every_n_steps": 1} | settings).fit(module, data)
    return kept.all


def test_the_loss_of_a_step_is_that_of_all_its_parts(parts: Callable, tmp_path: Path) -> None:
    whole = numbers_of(parts, tmp_path, "sft", max_steps=4)
    shared = numbers_of(parts, tmp_path, "sft", max_steps=4, accumulate_grad_batches=4)
    assert [float(step.loss) for step in shared] == pytest.approx([float(step.loss) for step in whole], rel=1e-4)
    assert len(whole) == 4


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_the_logged_metrics_of_a_step_are_those_of_all_its_parts(stage: str, parts: Callable, tmp_path: Path) -> None:
    def logged(num_parts: int) -> list[dict[str, float]]:
        module, data = parts(stage)
        logger = CSVLogger(tmp_path, name=str(num_parts), version="")
        settings = {"log_every_n_steps": 1, "accumulate_grad_batches": num_parts}
        trainer(tmp_path, logger=logger, **settings).fit(module, data)
        with (tmp_path / str(num_parts) / "metrics.csv").open() as file:
            rows = [{key: float(row[key]) for key in row if key.startswith("train/")} for row in csv.DictReader(file)]
        # The last minibatch is smaller than the others.
        assert sum(1 for _ in data.train_dataloader()) == num_parts * len(rows)
        return rows

    whole, shared = logged(1), logged(4)
    assert {"sft": 1, "reward": 2, "dpo": 3}[stage] == len(whole[0])
    for one, other in zip(whole, shared, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_the_learning_rate_is_that_of_the_step_and_not_of_the_next(parts: Callable, tmp_path: Path) -> None:
    rates = [step.rates for step in numbers_of(parts, tmp_path, "sft", max_steps=4)]
    # From 1e-3, a linear schedule falls by a quarter of it with each of four steps.
    assert [rate["model"] for rate in rates] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_steps_that_are_not_logged_are_counted_with_the_next_that_is(parts: Callable, tmp_path: Path) -> None:
    kept = numbers_of(parts, tmp_path, "sft", max_steps=6, log_every_n_steps=3)
    assert [step.steps for step in kept] == [3, 3]


def test_each_role_of_ppo_has_its_learning_rate(parts: Callable, tmp_path: Path) -> None:
    kept = numbers_of(parts, tmp_path, "ppo")
    assert list(kept[0].rates) == ["actor", "critic"]
